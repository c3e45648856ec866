//! CPU code of the operations, on slices: SIMD selection, matrix products, reductions, elementary functions.

pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod elementwise;
pub mod gemm;
pub mod lanes;
pub mod math;
pub mod parallel;
pub(crate) mod reduce;
pub mod simd;
pub(crate) mod softmax;
pub(crate) mod sort;
pub mod ternary;
pub(crate) mod walk;
