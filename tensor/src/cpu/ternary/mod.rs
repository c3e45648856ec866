//! Ternary (1.58-bit) linear layers: quantization and the exact integer product.
//!
//! `y = X̃·W̃ᵀ` with `X̃ = Xq/s` and `W̃ = γ·Wq` is computed as `y[i, j] = f32(acc[i, j]) · (γ / s[i])`, where `acc` is
//! the integer product of the codes. Every SIMD level and thread count gives the same bits.

mod kernel;
mod packed;
mod product;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use packed::PackedTernary;
pub use product::{ternary_gemm, ternary_gemm_at};
pub use quantize::{WeightStats, absmean, quantize_activations, quantize_row, quantize_weights};

#[cfg(test)]
mod tests;
