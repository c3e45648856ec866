//! Weights in {-1, 0, 1} with one scale, activations in 8 bits with a scale a row (BitNet b1.58).

use tensor::cpu::parallel;
use tensor::{DType, Error, Result, Tensor};
