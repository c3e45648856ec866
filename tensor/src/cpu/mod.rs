//! CPU code of the operations, on slices.

pub(crate) mod copy;
pub mod gemm;
pub mod math;
