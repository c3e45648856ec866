//! CPU kernels: SIMD selection, matrix products, ternary layers.

pub mod gemm;
pub mod simd;
pub mod ternary;
