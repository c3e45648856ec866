//! A tensor on a tape.

use tensor::{DType, Device, Tensor};

/// A tensor on a tape. Ops take and return `Var`s; [`Var::detach`] is the only way back to a plain tensor.
#[derive(Clone, Debug)]
pub struct Var {
    pub(crate) value: Tensor,
    /// Where the tape collects this value's gradient; `None` for a constant.
    pub(crate) slot: Option<usize>,
}

impl Var {
    /// The value without its history: what is computed from it carries no gradient.
    pub fn detach(&self) -> Tensor {
        self.value.clone()
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// Where the value lives.
    pub fn device(&self) -> Device {
        self.value.device()
    }

    /// Whether a gradient will be computed for this value.
    pub fn requires_grad(&self) -> bool {
        self.slot.is_some()
    }
}
