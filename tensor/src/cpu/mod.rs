//! CPU code of the operations, on slices.

pub(crate) mod copy;
pub mod gemm;
pub mod lanes;
pub mod math;
pub mod parallel;
