//! The same elements under other dimensions.

use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::smallvec;
use tensor::{Dims, Result, Tensor};

/// The input's elements, in order, under `dims`.
#[derive(Clone, Debug)]
pub struct Reshape {
    /// Dimensions of the output, with as many elements as the input.
    pub dims: Dims,
}

impl Op for Reshape {
    const NAME: &'static str = "reshape";
    /// Dimensions of the input.
    type Saved = Dims;

    fn forward(&self, inputs: &[&Tensor], _keep: bool) -> Result<(Outputs, Option<Dims>)> {
        Ok((smallvec![inputs[0].reshape(&self.dims)?], Some(inputs[0].dims().into())))
    }

    fn backward(&self, dims: Dims, mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        if let (Some(dy), Some(sink)) = (dy.pop().flatten(), dx[0].as_mut()) {
            sink.give(dy.reshape(&dims)?)?;
        }
        Ok(())
    }
}
