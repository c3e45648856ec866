//! What a differentiable operation is.

use crate::GradSink;
use smallvec::{SmallVec, smallvec};
use tensor::{Result, Tensor};

/// Outputs of an op, one to four.
pub type Outputs = SmallVec<[Tensor; 4]>;

/// Gradients of an op's outputs; `None` where none arrived. Owned, so that they can be moved on or reused.
pub type Grads = SmallVec<[Option<Tensor>; 4]>;

/// A differentiable operation.
///
/// There is no default `backward`, and an op's outputs become [`crate::Var`]s only through [`crate::Tape::apply`]:
/// a forgotten gradient does not compile.
pub trait Op {
    /// Name for messages.
    const NAME: &'static str;
    /// What `backward` needs from `forward`. Dropped as soon as it was used.
    type Saved;

    /// Computes the outputs, and what `backward` needs if `keep` is set.
    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)>;

    /// Gives each wanted input its gradient: `dx[i]` is `None` where nobody asked.
    fn backward(&self, saved: Self::Saved, dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()>;
}

/// An op with one output whose gradient follows from its inputs alone. Every `SimpleOp` is an [`Op`].
pub trait SimpleOp {
    /// Name for messages.
    const NAME: &'static str;

    /// Computes the output.
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor>;

    /// The gradient of each input, given the inputs and the output's gradient.
    fn backward(&self, inputs: &[Tensor], dy: &Tensor) -> Result<Outputs>;
}

impl<O: SimpleOp> Op for O {
    const NAME: &'static str = <O as SimpleOp>::NAME;
    type Saved = Outputs;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Outputs>)> {
        let y = SimpleOp::forward(self, inputs)?;
        let saved = keep.then(|| inputs.iter().map(|&x| x.clone()).collect());
        Ok((smallvec![y], saved))
    }

    fn backward(&self, saved: Outputs, mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        let grads = SimpleOp::backward(self, &saved, &dy)?;
        drop(dy);
        for (sink, grad) in dx.iter_mut().zip(grads) {
            if let Some(sink) = sink {
                sink.give(grad)?;
            }
        }
        Ok(())
    }
}
