//! Segments that are computed again in the backward pass instead of remembered.

use crate::op::Grads;
use crate::tape::Step;
use crate::{Gradients, Tape, Var};
use smallvec::SmallVec;
use tensor::{Error, Result, Tensor};

type Forward<'m> = Box<dyn Fn(&mut Tape<'m>, &[Var]) -> Result<Vec<Var>> + 'm>;

pub(crate) struct Segment<'m> {
    forward: Forward<'m>,
    inputs: Vec<(Tensor, bool)>,
}

impl<'m> Segment<'m> {
    /// Gradients of the inputs; parameters' go to `params`.
    pub fn backward(self, dy: Grads, params: &mut Gradients) -> Result<Vec<Option<Tensor>>> {
        let mut tape = Tape::new();
        let inputs: Vec<Var> = self
            .inputs
            .into_iter()
            .map(|(value, wanted)| if wanted { tape.leaf(value) } else { tape.constant(value) })
            .collect();
        let outputs = (self.forward)(&mut tape, &inputs)?;
        let (outputs, dy): (Vec<&Var>, Vec<Tensor>) =
            outputs.iter().zip(dy).filter_map(|(y, dy)| Some((y, dy?))).unzip();
        let mut grads = tape.backward_from(&outputs, dy, params)?;
        Ok(inputs.iter().map(|x| grads.take(x)).collect())
    }
}

impl<'m> Tape<'m> {
    /// Runs `forward` without remembering anything but its inputs, and runs it again in the backward pass (gradient
    /// checkpointing, Chen et al. 2016). `forward` must compute the same values both times.
    ///
    /// Every input that `forward` reads from a tape must come through `inputs`; parameters it takes with
    /// [`Tape::param`] itself.
    pub fn checkpoint(
        &mut self,
        inputs: &[&Var],
        forward: impl Fn(&mut Tape<'m>, &[Var]) -> Result<Vec<Var>> + 'm,
    ) -> Result<Vec<Var>> {
        let mut inner = Tape::inference();
        let plain: Vec<Var> = inputs.iter().map(|x| inner.constant(x.detach())).collect();
        let outputs = forward(&mut inner, &plain)?;
        if !self.is_recording() {
            return Ok(outputs);
        }
        if outputs.len() > 4 {
            let message = format!("a segment has at most 4 outputs, not {}", outputs.len());
            return Err(Error::Argument { op: "checkpoint", message });
        }
        let values: SmallVec<[Tensor; 4]> = outputs.into_iter().map(|y| y.value).collect();
        let saved = inputs.iter().map(|x| (x.detach(), x.requires_grad())).collect();
        let segment = Segment { forward: Box::new(forward), inputs: saved };
        Ok(self.record("checkpoint", Step::Segment(segment), inputs, values).into_vec())
    }
}
