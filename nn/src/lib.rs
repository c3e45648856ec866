//! Layers, losses and optimizers for ternary (BitNet b1.58) language models.
//!
//! [`ops`] has one file an operation, [`losses`] one a loss, [`optim`] the optimizers, [`model`] the decoder, and
//! [`ternary`] the quantized weights.

pub mod losses;
pub mod model;
pub mod module;
pub mod ops;
pub mod optim;
pub mod ternary;
