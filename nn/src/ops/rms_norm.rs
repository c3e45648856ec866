//! Root-mean-square normalisation (Zhang & Sennrich 2019).

use super::{count, expect_dims, expect_dtype, packs};
use autograd::{GradSink, Grads, Op, Outputs};
use rayon::prelude::*;
use smallvec::smallvec;
use tensor::cpu::lanes;
use tensor::cpu::parallel::rows_per_task;
use tensor::cpu::simd::dispatch;
use tensor::cuda::{Cuda, Grid};
use tensor::{DType, Device, Element, Float, Result, Tensor, with_float};

/// `y = x / sqrt(mean(x²) + eps) · w` over the last axis. Inputs: x `[…, H]`, w `[H]`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

/// The inputs, and 1/sqrt(mean(x²) + eps) of each row, in f32 on a GPU.
pub struct Saved {
    pub(super) x: Tensor,
    pub(super) w: Tensor,
    pub(super) inverse_rms: Tensor,
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Saved>)> {
        let (x, w) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        let h = x.last_dim();
        expect_dims(Self::NAME, "w", &w, &[h])?;
        let rows = x.numel() / h.max(1);
        if let Device::Cuda(gpu) = x.device() {
            let [y, inverse_rms] = forward_cuda(gpu, &x, &w, self.eps)?;
            return Ok((smallvec![y], keep.then_some(Saved { x, w, inverse_rms })));
        }
        let mut y = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        let mut inverse_rms = Tensor::empty(&[rows], x.dtype(), &x.device())?;
        with_float!(Self::NAME, x.dtype(), T => {
            forward::<T>(
                x.as_slice()?, w.as_slice()?, T::from_f64(self.eps), y.as_mut_slice()?, inverse_rms.as_mut_slice()?,
            );
            Ok(())
        })?;
        Ok((smallvec![y], keep.then_some(Saved { x, w, inverse_rms })))
    }

    fn backward(&self, saved: Saved, mut dy: Grads, sinks: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        let dy = dy.contiguous()?;
        if let Device::Cuda(gpu) = dy.device() {
            let [dx, dw] = sinks else { return Ok(()) };
            let grad = backward_cuda(gpu, &saved, &dy, None, dw.as_mut())?;
            return dx.as_mut().map_or(Ok(()), |sink| sink.give(grad));
        }
        let Saved { x, w, inverse_rms } = saved;
        let mut dx = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        let mut dw = Tensor::empty(w.dims(), w.dtype(), &w.device())?;
        with_float!(Self::NAME, x.dtype(), T => {
            backward::<T>(
                x.as_slice()?, w.as_slice()?, inverse_rms.as_slice()?, dy.as_slice()?,
                dx.as_mut_slice()?, dw.as_mut_slice()?,
            )
        })?;
        for (sink, grad) in sinks.iter_mut().zip([dx, dw]) {
            if let Some(sink) = sink {
                sink.give(grad)?;
            }
        }
        Ok(())
    }
}

fn forward<T: Float>(x: &[T], w: &[T], eps: T, y: &mut [T], inverse_rms: &mut [T]) {
    let h = w.len();
    if h == 0 {
        return;
    }
    let (rows, count) = (rows_per_task(h), T::from_f64(h as f64));
    (y.par_chunks_mut(rows * h), x.par_chunks(rows * h), inverse_rms.par_chunks_mut(rows))
        .into_par_iter()
        .for_each(|(y, x, inverse)| {
            dispatch(
                #[inline(always)]
                || {
                    for ((y, x), inverse) in y.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(inverse) {
                        let r = T::ONE / (lanes::dot(x, x) / count + eps).sqrt();
                        *inverse = r;
                        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                            *y = x * r * w;
                        }
                    }
                },
            )
        });
}

/// With `n = x·r` and `g = dy·w`: `dx = r·(g - n·mean(g·n))`, `dw = Σ dy·n`.
fn backward<T: Float>(x: &[T], w: &[T], inverse: &[T], dy: &[T], dx: &mut [T], dw: &mut [T]) -> Result<()> {
    let h = w.len();
    if h == 0 {
        return Ok(());
    }
    let (rows, count) = (rows_per_task(h), T::from_f64(h as f64));
    // The weight's gradient is summed a task at a time, then over the tasks in order.
    let tasks = inverse.len().div_ceil(rows);
    let mut partial = Tensor::zeros(&[tasks.max(1), h], T::DTYPE, &tensor::Device::Cpu)?;
    let partial = partial.as_mut_slice::<T>()?;
    (
        dx.par_chunks_mut(rows * h),
        x.par_chunks(rows * h),
        dy.par_chunks(rows * h),
        inverse.par_chunks(rows),
        partial.par_chunks_mut(h),
    )
        .into_par_iter()
        .for_each(|(dx, x, dy, inverse, dw)| {
            dispatch(
                #[inline(always)]
                || {
                    let rows =
                        dx.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(dy.chunks_exact(h)).zip(inverse);
                    for (((dx, x), dy), &r) in rows {
                        let mean = lanes::sum_map3(
                            dy,
                            w,
                            x,
                            #[inline(always)]
                            |dy, w, x| dy * w * (x * r),
                        ) / count;
                        for i in 0..h {
                            let n = x[i] * r;
                            dx[i] = r * (dy[i] * w[i] - n * mean);
                            dw[i] += dy[i] * n;
                        }
                    }
                },
            )
        });
    dw.fill(T::ZERO);
    for part in partial.chunks_exact(h) {
        for (dw, &part) in dw.iter_mut().zip(part) {
            *dw += part;
        }
    }
    Ok(())
}

/// Threads of a block.
pub(super) const THREADS: usize = 256;

/// How many threads share a row: as few as hold it in their registers.
pub(super) fn lanes(h: usize, dtype: DType) -> usize {
    match packs(h, dtype) {
        0..=8 => 8,
        9..=16 => 16,
        17..=96 => 32,
        _ => THREADS,
    }
}

fn forward_cuda(gpu: Cuda, x: &Tensor, w: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    const OP: &str = RmsNorm::NAME;
    expect_dtype(OP, w, DType::F32)?;
    let (h, device) = (x.last_dim(), x.device());
    let rows = x.numel() / h.max(1);
    let mut y = Tensor::empty(x.dims(), x.dtype(), &device)?;
    let mut inverse = Tensor::empty(&[rows], DType::F32, &device)?;
    let lanes = lanes(h, x.dtype());
    let launch = gpu.kernel("rms_norm", "rms_norm_forward", x.dtype())?;
    let launch = launch.read(x)?.read(w)?.write(&mut y)?.write(&mut inverse)?;
    let launch = launch.value(count(OP, rows)?).value(count(OP, h)?).value(lanes as u32).value(eps as f32);
    // SAFETY: these are the arguments of rms_norm_forward; it reads rows·h elements of x and h of w, and writes as many of
    // y and rows of the inverses.
    unsafe { launch.run(Grid::blocks(rows.div_ceil(THREADS / lanes), THREADS as u32)) }?;
    Ok([y, inverse])
}

/// The gradient of x, plus `other` if there is one; that of the gain goes to `dw`.
pub(super) fn backward_cuda(
    gpu: Cuda,
    saved: &Saved,
    dy: &Tensor,
    other: Option<&Tensor>,
    dw: Option<&mut GradSink<'_>>,
) -> Result<Tensor> {
    const OP: &str = RmsNorm::NAME;
    let Saved { x, w, inverse_rms } = saved;
    let (h, device) = (x.last_dim(), x.device());
    let (rows, lanes) = (x.numel() / h.max(1), lanes(h, x.dtype()));
    expect_dtype(OP, dy, x.dtype())?;
    // Each block sums the gain's gradient over its rows, so there are no more than keep the card busy.
    let blocks = rows.div_ceil(THREADS / lanes).min(2 * gpu.multiprocessors() as usize);
    let mut partial = Tensor::empty(&[blocks, h], DType::F32, &device)?;
    let mut dx = Tensor::empty(x.dims(), x.dtype(), &device)?;
    let launch = gpu.kernel("rms_norm", "rms_norm_backward", x.dtype())?;
    let launch = launch
        .read(x)?
        .read(w)?
        .read(inverse_rms)?
        .read(dy)?
        .read_optional(other)?
        .write(&mut dx)?
        .write(&mut partial)?;
    let launch = launch.value(count(OP, rows)?).value(count(OP, h)?).value(lanes as u32);
    // SAFETY: these are the arguments of rms_norm_backward; it reads and writes rows·h elements, and each block its row of
    // `partial`.
    unsafe { launch.run(Grid::blocks(blocks, THREADS as u32)) }?;
    if let Some(dw) = dw {
        sum_partials(gpu, &partial, dw)?;
    }
    Ok(dx)
}

/// Adds up the rows of `partial` `[parts, h]`, in order, into the gradient of a gain `[h]`.
pub(super) fn sum_partials(gpu: Cuda, partial: &Tensor, sink: &mut GradSink<'_>) -> Result<()> {
    let [parts, h] = partial.dims_n("rms_norm")?;
    sink.accumulate(|dw, beta| {
        let launch = gpu.entry("rms_norm", "rms_norm_dw").read(partial)?.write(dw)?;
        let launch = launch.value(parts as u32).value(count("rms_norm", h)?).value(beta as f32);
        // SAFETY: these are the arguments of rms_norm_dw; it reads parts·h elements and writes h.
        unsafe { launch.run(Grid::blocks(h.div_ceil(32), 1024)) }
    })
}
