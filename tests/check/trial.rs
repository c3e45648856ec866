//! One case in one type: its outcome, what must not change it, and how far it is from another.

use super::{Case, Failure};
use autograd::{Gradients, ParamId, Parameter, Tape, Var};
use tensor::{DType, Device, Stream, Tensor};

/// A case in one type.
pub(super) struct Trial<'a> {
    pub case: &'a Case,
    /// That of activations.
    pub dtype: DType,
    /// Which inputs ask for a gradient.
    pub leaves: Vec<bool>,
}

/// Outputs, and the gradients of the inputs.
pub(super) struct Outcome {
    pub outputs: Vec<Tensor>,
    pub grads: Vec<Option<Tensor>>,
}

/// Largest relative L2 error of f32 against f64, or one device against another, from the same inputs.
pub(super) const SINGLE: f64 = 5e-6;

impl Trial<'_> {
    pub fn outcome(&self, inputs: &[Tensor], strided_dy: bool) -> Result<Outcome, Failure> {
        let mut tape = Tape::new();
        let vars: Vec<Var> = inputs
            .iter()
            .zip(&self.leaves)
            .map(|(x, &leaf)| if leaf { tape.leaf(x.clone()) } else { tape.constant(x.clone()) })
            .collect();
        let outputs = (self.case.run)(self.dtype, &mut tape, &vars)?;
        let mut dys = Vec::new();
        for (i, y) in outputs.iter().enumerate() {
            let dy = cotangent(&y.detach(), i)?;
            dys.push(if strided_dy { reversed(&dy)? } else { dy });
        }
        let refs: Vec<&Var> = outputs.iter().collect();
        let mut grads = tape.backward_from(&refs, dys, &mut Gradients::default())?;
        let outcome = Outcome {
            outputs: outputs.iter().map(Var::detach).collect(),
            grads: vars.iter().map(|x| grads.take(x)).collect(),
        };
        for (i, (grad, (&leaf, x))) in outcome.grads.iter().zip(self.leaves.iter().zip(inputs)).enumerate() {
            if leaf != grad.is_some() {
                let dims = x.dims();
                return Err(format!("input {i} (dims {dims:?}) was given no gradient, or one unasked").into());
            }
        }
        Ok(outcome)
    }

    /// Fails unless the relative L2 errors of outputs and of gradients stay within the two limits.
    pub fn close(&self, got: &Outcome, want: &Outcome, limits: [f64; 2]) -> Result<(), Failure> {
        let outputs = got.outputs.len();
        for (i, (what, got, want)) in pairs(got, want)?.into_iter().enumerate() {
            let error = distance(&values(got)?, &values(want)?, self.case.terms);
            if error.is_nan() || error > limits[usize::from(i >= outputs)] {
                let [got_type, want_type] = [got, want].map(|x| format!("{} on {}", x.dtype(), x.device()));
                let dims = got.dims();
                return Err(
                    format!("{what} (dims {dims:?}) in {got_type} is {error:.1e} from {want_type}").into()
                );
            }
        }
        Ok(())
    }

    /// Whatever else changes, a result keeps its bits.
    pub fn repeatable(&self, inputs: &[Tensor], first: &Outcome) -> Result<(), Failure> {
        same(first, &self.outcome(inputs, false)?, "a second run")?;
        same(first, &self.outcome(inputs, true)?, "strided output gradients")?;
        self.strided(inputs, first)?;
        self.wanted(inputs, first)?;
        self.accumulation(inputs, first)
    }

    fn strided(&self, inputs: &[Tensor], first: &Outcome) -> Result<(), Failure> {
        let with = |i: usize, x: Tensor| {
            let mut inputs = inputs.to_vec();
            inputs[i] = x;
            self.outcome(&inputs, false)
        };
        for (i, x) in inputs.iter().enumerate() {
            same(first, &with(i, reversed(x)?)?, &format!("input {i} transposed"))?;
            if x.rank() > 0 {
                same(first, &with(i, narrowed(x)?)?, &format!("input {i} narrowed"))?;
            }
            for axis in (0..x.rank()).filter(|&axis| x.dims()[axis] > 1) {
                let repeated = x.narrow(axis, 0, 1)?.broadcast_to(x.dims())?;
                let plain = with(i, repeated.copy()?)?;
                same(&plain, &with(i, repeated)?, &format!("input {i} broadcast along axis {axis}"))?;
            }
        }
        Ok(())
    }

    /// A gradient must not depend on which others are asked for.
    fn wanted(&self, inputs: &[Tensor], first: &Outcome) -> Result<(), Failure> {
        for alone in (0..self.leaves.len()).filter(|&i| self.leaves[i]) {
            let only = Trial { leaves: (0..self.leaves.len()).map(|i| i == alone).collect(), ..*self };
            let when = format!("only input {alone} asking for a gradient");
            same(first, &only.outcome(inputs, false)?, &when)?;
        }
        Ok(())
    }

    /// Two backward passes into the gradients of parameters give twice the gradient. Those in bf16 are activations', which
    /// nobody sums over passes.
    fn accumulation(&self, inputs: &[Tensor], first: &Outcome) -> Result<(), Failure> {
        let parameter = |(i, x): (usize, &Tensor)| Ok(Parameter { id: ParamId(i), value: x.clone() });
        let parameters: Vec<Parameter> =
            inputs.iter().enumerate().map(parameter).collect::<tensor::Result<_>>()?;
        let empty = |x: &Tensor| Tensor::empty(x.dims(), x.dtype(), &x.device());
        let mut sums = Gradients::new(inputs.iter().map(empty).collect::<Result<_, _>>()?);
        for _ in 0..2 {
            let mut tape = Tape::new();
            let vars: Vec<Var> = parameters
                .iter()
                .zip(&self.leaves)
                .map(|(p, &leaf)| if leaf { tape.param(p) } else { tape.constant(p.value.clone()) })
                .collect();
            let outputs = (self.case.run)(self.dtype, &mut tape, &vars)?;
            let dys: Vec<Tensor> = outputs
                .iter()
                .enumerate()
                .map(|(i, y)| cotangent(&y.detach(), i))
                .collect::<tensor::Result<_>>()?;
            tape.backward_from(&outputs.iter().collect::<Vec<_>>(), dys, &mut sums)?;
        }
        for (i, grad) in first.grads.iter().enumerate() {
            let Some(grad) = grad.as_ref().filter(|grad| grad.dtype() != DType::BF16) else { continue };
            let sum = sums.get(ParamId(i)).ok_or_else(|| format!("parameter {i} got no gradient"))?;
            let half: Vec<f64> = values(sum)?.iter().map(|x| x / 2.0).collect();
            let error = distance(&half, &values(grad)?, self.case.terms);
            if error.is_nan() || error > 1e-6 {
                return Err(format!("two passes into parameter {i} are {error:.1e} from twice one").into());
            }
        }
        Ok(())
    }
}

/// Reproducible numbers that bf16 holds exactly, neither all of one sign nor near zero.
pub(super) fn cotangent(y: &Tensor, seed: usize) -> tensor::Result<Tensor> {
    let stream = Stream { site: 1000 + seed as u32, ..Stream::new(21) };
    let value = |i| {
        let bits = stream.below(i, 128) as f64;
        (0.5 + bits / 128.0) * if stream.below(i, 2) == 0 { 1.0 } else { -1.0 }
    };
    let values: Vec<f64> = (0..y.numel() as u64).map(value).collect();
    Tensor::from_slice(&values, y.dims(), &Device::Cpu)?.to_dtype(y.dtype())?.to_device(&y.device())
}

pub(super) fn values(x: &Tensor) -> Result<Vec<f64>, Failure> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>()?)
}

/// Relative L2 error. Values smaller than [`FLOOR`] on average are measured against it: a gradient that cancels to zero
/// keeps the rounding errors of its terms, which are of the size of the inputs, about 1.
fn distance(got: &[f64], want: &[f64], terms: usize) -> f64 {
    let difference: f64 = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = want.iter().map(|b| b * b).sum();
    // n terms of random sign reach √n on the way, and are rounded n times there.
    let floor = FLOOR * terms as f64;
    (difference / norm.max(want.len().max(1) as f64 * floor * floor)).sqrt()
}

const FLOOR: f64 = 0.03;

/// The matching tensors of two outcomes, named.
fn pairs<'a>(a: &'a Outcome, b: &'a Outcome) -> Result<Vec<(String, &'a Tensor, &'a Tensor)>, Failure> {
    let outputs = a.outputs.iter().zip(&b.outputs).enumerate();
    let mut all: Vec<_> = outputs.map(|(i, (a, b))| (format!("output {i}"), a, b)).collect();
    for (i, pair) in a.grads.iter().zip(&b.grads).enumerate() {
        if let (Some(a), Some(b)) = pair {
            all.push((format!("gradient of input {i}"), a, b));
        }
    }
    match all.iter().find(|(_, a, b)| a.dims() != b.dims()) {
        Some((what, a, b)) => Err(format!("{what} has dims {:?} and {:?}", a.dims(), b.dims()).into()),
        None => Ok(all),
    }
}

/// Fails unless two outcomes have the same bits, all finite; zeros may differ in sign.
pub(super) fn same(a: &Outcome, b: &Outcome, when: &str) -> Result<(), Failure> {
    for (what, a, b) in pairs(a, b)? {
        let place = format!("{} on {}", a.dtype(), a.device());
        let (a, b) = (values(a)?, values(b)?);
        if let Some(x) = a.iter().chain(&b).find(|x| !x.is_finite()) {
            return Err(format!("{what} holds {x} ({when}): never written, or an overflow").into());
        }
        if let Some(i) = (0..a.len()).find(|&i| a[i] != b[i]) {
            let (a, b) = (a[i], b[i]);
            return Err(format!("element {i} of {what} ({place}) is {a}, with {when} {b}").into());
        }
    }
    Ok(())
}

/// The same values with the axes in memory in reversed order.
fn reversed(x: &Tensor) -> tensor::Result<Tensor> {
    let order: Vec<usize> = (0..x.rank()).rev().collect();
    x.permute(&order)?.copy()?.permute(&order)
}

/// The same values as the middle of something wider.
fn narrowed(x: &Tensor) -> tensor::Result<Tensor> {
    let axis = x.rank() - 1;
    Tensor::cat(&[x, x, x], axis)?.narrow(axis, x.last_dim(), x.last_dim())
}
