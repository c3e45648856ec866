#![doc = include_str!("../README.md")]

pub mod cpu;
pub mod cuda;
mod device;
mod dtype;
mod error;
pub mod io;
mod layout;
mod ops;
pub mod rng;
pub mod storage;
mod tensor;

pub use half;

pub use device::Device;
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use layout::{Dims, Layout};
pub use rng::Stream;
pub use tensor::Tensor;
