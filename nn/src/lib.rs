//! Layers, losses and optimizers for ternary (BitNet b1.58) language models.
//!
//! [`ops`] has one file an operation, [`losses`] one a loss, [`optim`] the optimizers, [`model`] the decoder,
//! [`params`] its trained tensors and [`ternary`] the quantized weights.

pub mod losses;
pub mod model;
pub mod ops;
pub mod optim;
pub mod params;
pub mod ternary;
