//! Ternary products together with what comes before them, on a GPU.

use super::bit_linear::{input_gradient, weight_gradients};
use super::linear::weight_dims;
use super::{count, expect_dims, expect_dtype, packs, rms_norm, swiglu, with_last};
use crate::ternary::{QuantizedRows, Ternary, chosen, products};
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::SmallVec;
use tensor::cuda::{Cuda, Grid};
use tensor::{DType, Device, Error, Result, Tensor};

/// What the input of the products is computed from, in one pass that leaves its codes and scales alone in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Before {
    /// The root-mean-square norm of x `[…, K]` times a gain `[K]`, with this eps. Inputs: x, gain.
    Norm(f64),
    /// The same of the sum of x and delta, which is the first output. Inputs: x, delta, gain.
    AddNorm(f64),
    /// `gate·σ(gate)·up`. Inputs: gate, up, both `[…, K]`.
    SwiGlu,
}

/// [`super::BitLinear`] of what [`Before`] computes: the same values, but that in bf16 the input of the products is not
/// rounded before it is quantized. Inputs: those of `before`, then the weights. GPU only: the CPU gains nothing by it.
#[derive(Clone, Debug)]
pub struct FusedBitLinear<'m> {
    /// What comes before the products.
    pub before: Before,
    /// Codes and scale of each weight, in the order of the inputs; three at most if there is a sum.
    pub weights: SmallVec<[&'m Ternary; 4]>,
}

/// The codes that the products read, and what the gradient of their input goes through.
pub struct Saved {
    x: QuantizedRows,
    source: Source,
}

enum Source {
    Norm(rms_norm::Saved),
    SwiGlu { gate: Tensor, up: Tensor },
}

impl Before {
    fn inputs(self) -> usize {
        match self {
            Before::AddNorm(_) => 3,
            Before::Norm(_) | Before::SwiGlu => 2,
        }
    }
}

impl Op for FusedBitLinear<'_> {
    const NAME: &'static str = "fused_bit_linear";
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Saved>)> {
        let Device::Cuda(gpu) = inputs[0].device() else {
            return Err(Error::device("cpu", "fused_bit_linear runs on a GPU alone"));
        };
        let (before, weights) = inputs.split_at(self.before.inputs());
        let mut outputs = Outputs::new();
        let (x, source) = match self.before {
            Before::Norm(eps) => norm(gpu, before[0], None, before[1], eps)?,
            Before::AddNorm(eps) => norm(gpu, before[0], Some(before[1]), before[2], eps)?,
            Before::SwiGlu => gated(gpu, before[0], before[1])?,
        };
        if let (Before::AddNorm(_), Source::Norm(saved)) = (self.before, &source) {
            outputs.push(saved.x.clone());
        }
        let mut ys = Outputs::new();
        for (w, ternary) in weights.iter().zip(&self.weights) {
            let [n, _] = weight_dims(Self::NAME, inputs[0], w)?;
            expect_dims(Self::NAME, "codes", ternary.codes(), w.dims())?;
            ys.push(Tensor::empty(&with_last(inputs[0], n), inputs[0].dtype(), &inputs[0].device())?);
        }
        products(&self.weights, &x, &mut ys)?;
        outputs.extend(ys);
        Ok((outputs, keep.then_some(Saved { x, source })))
    }

    fn backward(
        &self,
        Saved { x, source }: Saved,
        mut dy: Grads,
        sinks: &mut [Option<GradSink<'_>>],
    ) -> Result<()> {
        let Device::Cuda(gpu) = x.codes().device() else { return Ok(()) };
        let sum = if matches!(self.before, Before::AddNorm(_)) { dy.remove(0) } else { None };
        let (before, dw) = sinks.split_at_mut(self.before.inputs());
        weight_gradients(gpu, &x, &dy, dw)?;
        let like = match &source {
            Source::Norm(saved) => &saved.x,
            Source::SwiGlu { gate, .. } => gate,
        };
        let mut dx = None;
        if before.iter().any(Option::is_some) && dy.iter().any(Option::is_some) {
            let mut gradient = Tensor::empty(like.dims(), like.dtype(), &like.device())?;
            input_gradient(gpu, &self.weights, &dy, &mut gradient, 0.0)?;
            dx = Some(gradient);
        }
        drop((dy, x));
        match (source, dx) {
            (Source::Norm(saved), Some(dx)) => {
                let [inputs @ .., gain] = before else { return Ok(()) };
                let sum = sum.map(|sum| sum.contiguous()).transpose()?;
                let grad = rms_norm::backward_cuda(gpu, &saved, &dx, sum.as_ref(), gain.as_mut())?;
                give_all(inputs, grad)
            }
            (Source::Norm(_), None) => match (sum, before) {
                (Some(sum), [inputs @ .., _]) => give_all(inputs, sum),
                _ => Ok(()),
            },
            (Source::SwiGlu { gate, up }, Some(dx)) => {
                let mut grads = [&gate, &up].map(|x| Tensor::empty(x.dims(), x.dtype(), &x.device()));
                if let [Ok(dgate), Ok(dup)] = &mut grads {
                    swiglu::backward_cuda(gpu, [&gate, &up, &dx], [dgate, dup])?;
                }
                before.iter_mut().zip(grads).try_for_each(|(sink, grad)| {
                    let grad = grad?;
                    sink.as_mut().map_or(Ok(()), |sink| sink.give(grad))
                })
            }
            (Source::SwiGlu { .. }, None) => Ok(()),
        }
    }
}

/// Gives every wanted input the same gradient.
fn give_all(sinks: &mut [Option<GradSink<'_>>], grad: Tensor) -> Result<()> {
    sinks.iter_mut().flatten().try_for_each(|sink| sink.give(grad.clone()))
}

fn norm(
    gpu: Cuda,
    x: &Tensor,
    delta: Option<&Tensor>,
    w: &Tensor,
    eps: f64,
) -> Result<(QuantizedRows, Source)> {
    const OP: &str = FusedBitLinear::NAME;
    let (x, w, device) = (x.contiguous()?, w.contiguous()?, x.device());
    let h = x.last_dim();
    let rows = x.numel() / h.max(1);
    expect_dims(OP, "gain", &w, &[h])?;
    expect_dtype(OP, &w, DType::F32)?;
    let delta = delta.map(|delta| delta.contiguous()).transpose()?;
    let mut sum = None;
    if let Some(delta) = &delta {
        expect_dims(OP, "delta", delta, x.dims())?;
        expect_dtype(OP, delta, x.dtype())?;
        sum = Some(Tensor::empty(x.dims(), x.dtype(), &device)?);
    }
    let mut codes = Tensor::empty(x.dims(), DType::I8, &device)?;
    let mut scales = Tensor::empty(&[rows], DType::F32, &device)?;
    let mut inverse_rms = Tensor::empty(&[rows], DType::F32, &device)?;
    // No fewer than a warp.
    let lanes = rms_norm::lanes(h, x.dtype()).max(32);
    let launch =
        gpu.kernel("norm_quantize", "norm_quantize", x.dtype())?.read(&x)?.read_optional(delta.as_ref())?;
    let launch = launch.read(&w)?.write_optional(sum.as_mut())?.write(&mut codes)?;
    let launch = launch.write(&mut scales)?.write(&mut inverse_rms)?;
    let launch = launch.value(count(OP, rows)?).value(count(OP, h)?).value(lanes as u32).value(eps as f32);
    // SAFETY: these are the arguments of norm_quantize; it reads rows·h elements of x and delta and h of w, and writes as
    // many of the sum and the codes, and rows of the scales and the inverses.
    unsafe { launch.run(Grid::blocks(rows.div_ceil(rms_norm::THREADS / lanes), rms_norm::THREADS as u32)) }?;
    let saved = rms_norm::Saved { x: sum.unwrap_or(x), w, inverse_rms };
    Ok((chosen(QuantizedRows::from_parts(codes, scales)?)?, Source::Norm(saved)))
}

fn gated(gpu: Cuda, gate: &Tensor, up: &Tensor) -> Result<(QuantizedRows, Source)> {
    const OP: &str = FusedBitLinear::NAME;
    let (gate, up, device) = (gate.contiguous()?, up.contiguous()?, gate.device());
    expect_dims(OP, "up", &up, gate.dims())?;
    expect_dtype(OP, &up, gate.dtype())?;
    let width = gate.last_dim();
    let rows = gate.numel() / width.max(1);
    let mut codes = Tensor::empty(gate.dims(), DType::I8, &device)?;
    let mut scales = Tensor::empty(&[rows], DType::F32, &device)?;
    let lanes = if packs(width, gate.dtype()) <= 64 { 32 } else { rms_norm::THREADS };
    let launch = gpu.kernel("swiglu_quantize", "swiglu_quantize", gate.dtype())?.read(&gate)?.read(&up)?;
    let launch = launch.write(&mut codes)?.write(&mut scales)?;
    let launch = launch.value(count(OP, rows)?).value(count(OP, width)?).value(lanes as u32);
    // SAFETY: these are the arguments of swiglu_quantize; it reads rows·width elements of gate and up, and writes as many
    // codes, and a scale a row.
    unsafe { launch.run(Grid::blocks(rows.div_ceil(rms_norm::THREADS / lanes), rms_norm::THREADS as u32)) }?;
    Ok((chosen(QuantizedRows::from_parts(codes, scales)?)?, Source::SwiGlu { gate, up }))
}
