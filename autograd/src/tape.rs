//! The record of a computation, and its walk backwards.

use crate::checkpoint::Segment;
use crate::op::{Grads, Op, Outputs};
use crate::sink::{GradSink, Like};
use crate::{Gradients, ParamId, Parameter, Var};
use smallvec::SmallVec;
use tensor::{Error, Result, Tensor};

type Backward<'m> = Box<dyn FnOnce(Grads, &mut [Option<GradSink<'_>>]) -> Result<()> + 'm>;

pub(crate) enum Step<'m> {
    /// Calls an op's backward.
    Op(Backward<'m>),
    /// Computes a segment again, recording, and goes back through it.
    Segment(Segment<'m>),
}

struct Node<'m> {
    op: &'static str,
    step: Step<'m>,
    /// Slots of the inputs; `None` where no gradient is wanted.
    inputs: SmallVec<[Option<usize>; 4]>,
    /// Slots of the outputs are consecutive.
    first_output: usize,
    outputs: usize,
}

/// A value whose gradient is wanted.
struct Slot {
    like: Like,
    param: Option<ParamId>,
}

/// Records ops in the order they run, which is a topological order, and walks them backwards.
///
/// It may borrow the module it runs (`'m`), so that a checkpointed segment can run again.
pub struct Tape<'m> {
    nodes: Vec<Node<'m>>,
    slots: Vec<Slot>,
    recording: bool,
}

impl<'m> Tape<'m> {
    /// A tape that records.
    #[allow(clippy::new_without_default, reason = "recording or inference is a choice to make in words")]
    pub fn new() -> Self {
        Tape { nodes: Vec::new(), slots: Vec::new(), recording: true }
    }

    /// A tape that runs the same forward code and records nothing.
    pub fn inference() -> Self {
        Tape { recording: false, ..Tape::new() }
    }

    /// Whether ops are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// A value no gradient is wanted for.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { value, slot: None }
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        let slot = self.recording.then(|| self.slot(&value, None));
        Var { value, slot }
    }

    /// A parameter: its gradient goes to the [`Gradients`] given to [`Tape::backward`].
    pub fn param(&mut self, parameter: &Parameter) -> Var {
        let slot = self.recording.then(|| self.slot(&parameter.value, Some(parameter.id)));
        Var { value: parameter.value.clone(), slot }
    }

    fn slot(&mut self, value: &Tensor, param: Option<ParamId>) -> usize {
        self.slots.push(Slot { like: Like::of(value), param });
        self.slots.len() - 1
    }

    /// Runs an op on values, and records it if a gradient of an input is wanted.
    pub fn apply_n<O: Op + 'm>(&mut self, op: O, inputs: &[&Var]) -> Result<SmallVec<[Var; 4]>>
    where
        O::Saved: 'm,
    {
        let keep = inputs.iter().any(|x| x.slot.is_some());
        let values: SmallVec<[&Tensor; 6]> = inputs.iter().map(|x| &x.value).collect();
        let (outputs, saved) = op.forward(&values, keep).map_err(|e| e.asked_by(O::NAME))?;
        if !keep {
            return Ok(outputs.into_iter().map(|value| Var { value, slot: None }).collect());
        }
        let saved = saved.ok_or_else(|| {
            let message = "forward saved nothing although asked to".to_owned();
            Error::Argument { op: O::NAME, message }
        })?;
        let step = Step::Op(Box::new(move |dy, dx| op.backward(saved, dy, dx)));
        Ok(self.record(O::NAME, step, inputs, outputs))
    }

    /// [`Tape::apply_n`] for an op with one output.
    pub fn apply<O: Op + 'm>(&mut self, op: O, inputs: &[&Var]) -> Result<Var>
    where
        O::Saved: 'm,
    {
        let mut outputs = self.apply_n(op, inputs)?;
        match (outputs.pop(), outputs.is_empty()) {
            (Some(y), true) => Ok(y),
            _ => Err(Error::Argument { op: O::NAME, message: "has not exactly one output".to_owned() }),
        }
    }

    pub(crate) fn record(
        &mut self,
        op: &'static str,
        step: Step<'m>,
        inputs: &[&Var],
        outputs: Outputs,
    ) -> SmallVec<[Var; 4]> {
        let first_output = self.slots.len();
        let inputs = inputs.iter().map(|x| x.slot).collect();
        self.nodes.push(Node { op, step, inputs, first_output, outputs: outputs.len() });
        outputs
            .into_iter()
            .map(|value| {
                let slot = Some(self.slot(&value, None));
                Var { value, slot }
            })
            .collect()
    }

    /// Gradients of a scalar loss: parameters' are added to `params`, leaves' are returned.
    pub fn backward(self, loss: &Var, params: &mut Gradients) -> Result<LeafGrads> {
        if loss.value.numel() != 1 {
            let message = format!("the loss has dims {:?}, not one element", loss.dims());
            return Err(Error::Shape { op: "backward", message });
        }
        let one = Tensor::full(1.0, loss.dims(), loss.dtype(), &loss.device())?;
        self.backward_from(&[loss], [one], params)
    }

    /// Gradients given those of some outputs: the vector–Jacobian product.
    pub fn backward_from(
        self,
        outputs: &[&Var],
        dy: impl IntoIterator<Item = Tensor>,
        params: &mut Gradients,
    ) -> Result<LeafGrads> {
        let mut sums: Vec<Option<Tensor>> = self.slots.iter().map(|_| None).collect();
        let mut any = false;
        for (y, dy) in outputs.iter().zip(dy) {
            if let Some(slot) = y.slot {
                any = true;
                let (mut written, sum) = (sums[slot].is_some(), &mut sums[slot]);
                GradSink { op: "backward", like: &self.slots[slot].like, sum, written: &mut written }
                    .give(dy)?;
            }
        }
        if !any {
            let message = "no output depends on a leaf or parameter of this tape".to_owned();
            return Err(Error::Argument { op: "backward", message });
        }
        for node in self.nodes.into_iter().rev() {
            let range = node.first_output..node.first_output + node.outputs;
            let dy: Grads = sums[range].iter_mut().map(Option::take).collect();
            if dy.iter().all(Option::is_none) {
                continue;
            }
            match node.step {
                Step::Op(backward) => {
                    into_sinks(node.op, &node.inputs, &self.slots, &mut sums, params, |dx| backward(dy, dx))?;
                }
                Step::Segment(segment) => {
                    let mut grads = segment.backward(dy, params)?;
                    into_sinks(node.op, &node.inputs, &self.slots, &mut sums, params, |dx| {
                        for (sink, grad) in dx.iter_mut().zip(&mut grads) {
                            if let (Some(sink), Some(grad)) = (sink, grad.take()) {
                                sink.give(grad)?;
                            }
                        }
                        Ok(())
                    })?;
                }
            }
        }
        // A parameter that is itself an output.
        for (slot, sum) in self.slots.iter().zip(&mut sums) {
            if let (Some(id), Some(grad)) = (slot.param, sum.take_if(|_| slot.param.is_some())) {
                params.check(id)?;
                let (sum, written) = (&mut params.tensors[id.0], &mut params.written[id.0]);
                GradSink { op: "backward", like: &slot.like, sum, written }.give(grad)?;
            }
        }
        Ok(LeafGrads { sums })
    }
}

/// A sum of gradients taken out of its place while an op adds to it.
struct Entry<'a> {
    like: &'a Like,
    slot: usize,
    param: Option<ParamId>,
    sum: Option<Tensor>,
    written: bool,
}

/// Calls `backward` with a sink for each wanted input, and puts the sums back.
fn into_sinks(
    op: &'static str,
    inputs: &[Option<usize>],
    slots: &[Slot],
    sums: &mut [Option<Tensor>],
    params: &mut Gradients,
    backward: impl FnOnce(&mut [Option<GradSink<'_>>]) -> Result<()>,
) -> Result<()> {
    let mut entries: SmallVec<[Option<Entry<'_>>; 6]> = SmallVec::new();
    for input in inputs {
        let Some(slot) = *input else {
            entries.push(None);
            continue;
        };
        let Slot { like, param } = &slots[slot];
        let (sum, written) = match param {
            Some(id) => {
                params.check(*id)?;
                (params.tensors[id.0].take(), params.written[id.0])
            }
            None => (sums[slot].take(), true),
        };
        // An input given twice finds nothing here the second time; its sums meet below.
        let written = written && sum.is_some();
        entries.push(Some(Entry { like, slot, param: *param, sum, written }));
    }
    let done = {
        let mut sinks: SmallVec<[Option<GradSink<'_>>; 6]> = entries
            .iter_mut()
            .map(|entry| {
                let Entry { like, sum, written, .. } = entry.as_mut()?;
                Some(GradSink { op, like, sum, written })
            })
            .collect();
        backward(&mut sinks)
    };
    for entry in entries.into_iter().flatten() {
        let mut always = true;
        let (place, written) = match entry.param {
            Some(id) => (&mut params.tensors[id.0], &mut params.written[id.0]),
            None => (&mut sums[entry.slot], &mut always),
        };
        if place.is_none() {
            *place = entry.sum;
            *written |= entry.written;
        } else if let (Some(grad), true) = (entry.sum, entry.written) {
            GradSink { op, like: entry.like, sum: place, written }.give(grad)?;
        }
    }
    done.map_err(|e| e.asked_by(op))
}

/// Gradients of the leaves after a backward pass.
#[derive(Debug)]
pub struct LeafGrads {
    sums: Vec<Option<Tensor>>,
}

impl LeafGrads {
    /// The gradient of a leaf; `None` if the outputs do not depend on it, or it was taken before.
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        self.sums.get_mut(leaf.slot?)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimpleOp;
    use tensor::{DType, Device};

    /// Finds no memory: in the forward pass, or else in the backward pass.
    struct Large {
        forward: bool,
    }

    fn no_memory() -> Error {
        let what = "f32 [1]".to_owned();
        Error::OutOfMemory {
            device: "cuda:0".to_owned(),
            what,
            op: None,
            requested: 4,
            in_use: 0,
            reserved: 0,
            limit: None,
        }
    }

    impl SimpleOp for Large {
        const NAME: &'static str = "large";

        fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
            if self.forward { Err(no_memory()) } else { Ok(inputs[0].clone()) }
        }

        fn backward(&self, _: &[Tensor], _: &Tensor) -> Result<Outputs> {
            Err(no_memory())
        }
    }

    #[test]
    fn memory_that_runs_out_names_the_op() -> Result<()> {
        for forward in [true, false] {
            let mut tape = Tape::new();
            let x = tape.leaf(Tensor::zeros(&[1], DType::F32, &Device::Cpu)?);
            let done = tape.apply(Large { forward }, &[&x]);
            let done = done.and_then(|y| tape.backward(&y, &mut Gradients::default()).map(drop));
            let error = done.expect_err("there is no memory").to_string();
            assert!(error.contains("f32 [1] of large"), "{error}");
        }
        Ok(())
    }
}
