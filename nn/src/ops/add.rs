//! Sum of two tensors of the same shape: the residual connection.

use super::expect_dims;
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::smallvec;
use tensor::{Result, Tensor};

/// `y = a + b`, same dimensions and type.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    const NAME: &'static str = "add";
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _keep: bool) -> Result<(Outputs, Option<()>)> {
        let [a, b] = inputs else { unreachable!("add takes two inputs") };
        expect_dims(Self::NAME, "b", b, a.dims())?;
        Ok((smallvec![a.add(b)?], Some(())))
    }

    fn backward(&self, (): (), mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        for sink in dx.iter_mut().flatten() {
            sink.give(dy.clone())?;
        }
        Ok(())
    }
}
