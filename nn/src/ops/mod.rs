//! Differentiable operations, one a file: formula, forward, backward.

mod add;
mod attention;
mod bit_linear;
mod embedding;
mod fused_bit_linear;
mod head_loss;
mod linear;
mod norm_rope;
mod reshape;
mod rms_norm;
mod rope;
mod soft_cap;
mod swiglu;

pub use add::Add;
pub use attention::Attention;
pub use bit_linear::BitLinear;
pub use embedding::Embedding;
pub use fused_bit_linear::{Before, FusedBitLinear};
pub use head_loss::{HeadLoss, IGNORE, Teacher, head_logits};
pub(crate) use head_loss::{scaled, term_words};
pub use linear::Linear;
pub use norm_rope::NormRope;
pub use reshape::Reshape;
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeTables};
pub use soft_cap::SoftCap;
pub use swiglu::SwiGlu;

use tensor::{DType, Error, Result, Tensor};

/// Checks that `tensor` has the dimensions `expected`.
fn expect_dims(op: &'static str, what: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} has dims {:?}, expected {expected:?}", tensor.dims())))
}

/// Checks that `tensor` has the element type `expected`.
pub(crate) fn expect_dtype(op: &'static str, tensor: &Tensor, expected: DType) -> Result<()> {
    if tensor.dtype() == expected {
        return Ok(());
    }
    Err(Error::dtype(op, expected.name(), tensor.dtype()))
}

/// `n` as a GPU kernel counts.
pub(crate) fn count(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n)
        .map_err(|_| Error::shape(op, format!("{n} is more than a GPU kernel counts to, 2^32 - 1")))
}

/// Groups of 16 bytes in `n` elements, of which a GPU kernel takes one a thread.
fn packs(n: usize, dtype: DType) -> usize {
    (n * dtype.size()).div_ceil(16)
}

/// The dims of `x` with the last replaced.
fn with_last(x: &Tensor, last: usize) -> tensor::Dims {
    let mut dims: tensor::Dims = x.dims().into();
    if let Some(d) = dims.last_mut() {
        *d = last;
    }
    dims
}
