//! Gated linear unit with SiLU (Shazeer 2020).

use super::{expect_dims, expect_dtype, packs};
use autograd::{GradSink, Grads, Op, Outputs};
use rayon::prelude::*;
use smallvec::smallvec;
use tensor::cpu::parallel::rows_per_task;
use tensor::cpu::simd::dispatch;
use tensor::cuda::{Cuda, Grid};
use tensor::{Device, Float, Result, Tensor, with_float};

/// `y = gate·σ(gate)·up`, elementwise. Inputs: gate, up, of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu;

#[inline(always)]
fn sigmoid<T: Float>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

impl Op for SwiGlu {
    const NAME: &'static str = "swiglu";
    type Saved = (Tensor, Tensor);

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)> {
        let (gate, up) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        expect_dims(Self::NAME, "up", &up, gate.dims())?;
        let mut y = Tensor::empty(gate.dims(), gate.dtype(), &gate.device())?;
        if let Device::Cuda(gpu) = gate.device() {
            forward_cuda(gpu, &gate, &up, &mut y)?;
            return Ok((smallvec![y], keep.then_some((gate, up))));
        }
        with_float!(Self::NAME, gate.dtype(), T => {
            let n = rows_per_task(1);
            (y.as_mut_slice::<T>()?.par_chunks_mut(n), gate.as_slice::<T>()?.par_chunks(n), up.as_slice::<T>()?.par_chunks(n))
                .into_par_iter()
                .for_each(|(y, gate, up)| dispatch(#[inline(always)] || {
                    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                        *y = g * sigmoid(g) * u;
                    }
                }));
            Ok(())
        })?;
        Ok((smallvec![y], keep.then_some((gate, up))))
    }

    fn backward(
        &self,
        (gate, up): Self::Saved,
        mut dy: Grads,
        sinks: &mut [Option<GradSink<'_>>],
    ) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        let dy = dy.contiguous()?;
        let mut dgate = Tensor::empty(gate.dims(), gate.dtype(), &gate.device())?;
        let mut dup = Tensor::empty(up.dims(), up.dtype(), &up.device())?;
        if let Device::Cuda(gpu) = gate.device() {
            backward_cuda(gpu, [&gate, &up, &dy], [&mut dgate, &mut dup])?;
        } else {
            with_float!(Self::NAME, gate.dtype(), T => {
                let n = rows_per_task(1);
                (
                    dgate.as_mut_slice::<T>()?.par_chunks_mut(n),
                    dup.as_mut_slice::<T>()?.par_chunks_mut(n),
                    gate.as_slice::<T>()?.par_chunks(n),
                    up.as_slice::<T>()?.par_chunks(n),
                    dy.as_slice::<T>()?.par_chunks(n),
                )
                    .into_par_iter()
                    .for_each(|(dgate, dup, gate, up, dy)| dispatch(#[inline(always)] || {
                        let from = gate.iter().zip(up).zip(dy);
                        for ((dgate, dup), ((&g, &u), &dy)) in dgate.iter_mut().zip(dup).zip(from) {
                            let s = sigmoid(g);
                            *dup = dy * g * s;
                            *dgate = dy * u * s * (T::ONE + g * (T::ONE - s));
                        }
                    }));
                Ok(())
            })?;
        }
        for (sink, grad) in sinks.iter_mut().zip([dgate, dup]) {
            if let Some(sink) = sink {
                sink.give(grad)?;
            }
        }
        Ok(())
    }
}

fn forward_cuda(gpu: Cuda, gate: &Tensor, up: &Tensor, y: &mut Tensor) -> Result<()> {
    expect_dtype(SwiGlu::NAME, up, gate.dtype())?;
    let n = gate.numel();
    let launch = gpu.kernel("swiglu", "swiglu_forward", gate.dtype())?.read(gate)?.read(up)?.write(y)?;
    // SAFETY: these are the arguments of swiglu_forward; it reads and writes n elements.
    unsafe { launch.value(n as u64).run(Grid::strided(gpu, packs(n, gate.dtype()))) }
}

pub(super) fn backward_cuda(
    gpu: Cuda,
    [gate, up, dy]: [&Tensor; 3],
    [dgate, dup]: [&mut Tensor; 2],
) -> Result<()> {
    expect_dtype(SwiGlu::NAME, dy, gate.dtype())?;
    let n = gate.numel();
    let launch = gpu.kernel("swiglu", "swiglu_backward", gate.dtype())?;
    let launch = launch.read(gate)?.read(up)?.read(dy)?.write(dgate)?.write(dup)?;
    // SAFETY: these are the arguments of swiglu_backward; it reads and writes n elements.
    unsafe { launch.value(n as u64).run(Grid::strided(gpu, packs(n, gate.dtype()))) }
}
