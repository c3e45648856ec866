//! CPU code of the operations, on slices: SIMD selection, matrix products, reductions, elementary functions.

pub(crate) mod copy;
pub mod gemm;
pub mod lanes;
pub mod math;
pub mod parallel;
pub mod simd;
