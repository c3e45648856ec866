//! Differentiable operations, one a file: formula, forward, backward.

mod add;
mod attention;
mod bit_linear;
mod embedding;
mod head_loss;
mod linear;
mod reshape;
mod rms_norm;
mod rope;
mod soft_cap;
mod swiglu;

pub use add::Add;
pub use attention::Attention;
pub use bit_linear::BitLinear;
pub use embedding::Embedding;
pub use head_loss::{HeadLoss, IGNORE, Teacher, head_logits};
pub use linear::Linear;
pub use reshape::Reshape;
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeTables};
pub use soft_cap::SoftCap;
pub use swiglu::SwiGlu;

use tensor::{Error, Result, Tensor};

/// Checks that `tensor` has the dimensions `expected`.
fn expect_dims(op: &'static str, what: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} has dims {:?}, expected {expected:?}", tensor.dims())))
}

/// The dims of `x` with the last replaced.
fn with_last(x: &Tensor, last: usize) -> tensor::Dims {
    let mut dims: tensor::Dims = x.dims().into();
    if let Some(d) = dims.last_mut() {
        *d = last;
    }
    dims
}
