//! Where a backward pass puts the gradient of an input.

use tensor::{DType, Device, Dims, Error, Result, Tensor};

/// What a gradient must look like: like its value.
#[derive(Clone, Debug)]
pub(crate) struct Like {
    pub dims: Dims,
    pub dtype: DType,
    pub device: Device,
}

impl Like {
    pub fn of(value: &Tensor) -> Self {
        Like { dims: value.dims().into(), dtype: value.dtype(), device: value.device() }
    }
}

/// Takes the gradient of one input of an op.
pub struct GradSink<'a> {
    pub(crate) op: &'static str,
    pub(crate) like: &'a Like,
    /// The sum so far. A parameter's is always there, and `written` says whether it counts yet.
    pub(crate) sum: &'a mut Option<Tensor>,
    pub(crate) written: &'a mut bool,
}

impl GradSink<'_> {
    /// Adds a gradient that the caller gives away: an activation's first one is moved, later ones are added.
    pub fn give(&mut self, grad: Tensor) -> Result<()> {
        if grad.dims() != &self.like.dims[..] || grad.dtype() != self.like.dtype {
            let message = format!(
                "the gradient of an input of dims {:?} and type {} came as {:?} and {}",
                self.like.dims,
                self.like.dtype,
                grad.dims(),
                grad.dtype()
            );
            return Err(Error::Shape { op: self.op, message });
        }
        match (self.sum.as_mut(), *self.written) {
            (Some(sum), true) => add(sum, &grad)?,
            (Some(sum), false) => sum.copy_from(&grad)?,
            (None, _) => *self.sum = Some(grad),
        }
        *self.written = true;
        Ok(())
    }

    /// Lets `write` compute the gradient straight into its destination, a contiguous tensor: `dst = beta·dst + …`,
    /// with beta 0 (the destination's content is to be overwritten, not read) or 1.
    pub fn accumulate(&mut self, write: impl FnOnce(&mut Tensor, f64) -> Result<()>) -> Result<()> {
        let mut dst = match self.sum.take() {
            Some(sum) if *self.written && !(sum.is_contiguous() && sum.is_unique()) => sum.copy()?,
            Some(sum) => sum,
            None => Tensor::empty(&self.like.dims, self.like.dtype, &self.like.device)?,
        };
        let done = write(&mut dst, if *self.written { 1.0 } else { 0.0 });
        *self.sum = Some(dst);
        *self.written = true;
        done
    }
}

/// `sum += grad`, in place if nobody else sees `sum`.
pub(crate) fn add(sum: &mut Tensor, grad: &Tensor) -> Result<()> {
    if !(sum.is_unique() && sum.is_contiguous()) {
        *sum = sum.copy()?;
    }
    sum.add_assign(grad)
}
