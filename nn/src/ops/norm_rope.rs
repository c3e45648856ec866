//! Norm of each head and rotary embedding in one pass, on a GPU.

use super::rms_norm::{self, sum_partials};
use super::{RopeTables, count, expect_dims, expect_dtype, packs};
use autograd::{GradSink, Grads, Op, Outputs};
use smallvec::smallvec;
use std::sync::Arc;
use tensor::cuda::{Cuda, Grid};
use tensor::{DType, Device, Error, Result, Tensor};

/// [`super::RmsNorm`] of each head, then [`super::Rope`]: the same values, but that in bf16 nothing is rounded between the
/// two. Inputs: x `[B, T, heads, d]` with d up to 256, gain `[d]`. GPU only: the CPU gains nothing by it.
#[derive(Clone, Debug)]
pub struct NormRope {
    /// Added to the mean square.
    pub eps: f64,
    /// Angles of the T positions.
    pub tables: Arc<RopeTables>,
}

impl NormRope {
    /// Largest head.
    pub const MAX_HEAD_DIM: usize = 256;

    /// Checks what depends on the tables, and gives them.
    fn tables(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let [_, t, _, d] = x.dims_n(Self::NAME)?;
        let (cos, sin) = (self.tables.cos().contiguous()?, self.tables.sin().contiguous()?);
        expect_dims(Self::NAME, "table", &cos, &[t, d / 2])?;
        expect_dtype(Self::NAME, &cos, DType::F32)?;
        Ok([cos, sin])
    }
}

/// How many threads share a head: a pack of the first half and one of the second each.
fn lanes(d: usize, dtype: DType) -> usize {
    packs(d / 2, dtype).next_power_of_two().max(4)
}

impl Op for NormRope {
    const NAME: &'static str = "norm_rope";
    type Saved = rms_norm::Saved;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)> {
        let (x, w) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        let [b, t, heads, d] = x.dims_n(Self::NAME)?;
        let Device::Cuda(gpu) = x.device() else {
            return Err(Error::device("cpu", "norm_rope runs on a GPU alone"));
        };
        if d % 2 != 0 || d > Self::MAX_HEAD_DIM {
            return Err(Error::shape(
                Self::NAME,
                format!("a head of {d}; an even number up to 256 is needed"),
            ));
        }
        expect_dims(Self::NAME, "gain", &w, &[d])?;
        expect_dtype(Self::NAME, &w, DType::F32)?;
        let [cos, sin] = self.tables(&x)?;
        let (rows, lanes) = (b * t * heads, lanes(d, x.dtype()));
        let mut y = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        let mut inverse_rms = Tensor::empty(&[rows], DType::F32, &x.device())?;
        let launch = gpu.kernel("norm_rope", "norm_rope_forward", x.dtype())?.read(&x)?.read(&w)?;
        let launch = launch.read(&cos)?.read(&sin)?.write(&mut y)?.write(&mut inverse_rms)?;
        let launch = launch.value(count(Self::NAME, rows)?).value(t as u32).value(heads as u32);
        let launch = launch.value(d as u32).value(lanes as u32).value(self.eps as f32);
        // SAFETY: these are the arguments of norm_rope_forward; it reads rows·d elements of x, d of w and t·d/2 of each table,
        // and writes rows·d elements and an inverse a row.
        unsafe {
            launch.run(Grid::blocks(rows.div_ceil(rms_norm::THREADS / lanes), rms_norm::THREADS as u32))
        }?;
        Ok((smallvec![y], keep.then_some(rms_norm::Saved { x, w, inverse_rms })))
    }

    fn backward(&self, saved: Self::Saved, mut dy: Grads, sinks: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let (Some(dy), Device::Cuda(gpu)) = (dy.pop().flatten(), saved.x.device()) else { return Ok(()) };
        let (dx, partial) = self.backward_cuda(gpu, &saved, &dy.contiguous()?)?;
        if let Some(sink) = &mut sinks[0] {
            sink.give(dx)?;
        }
        sinks[1].as_mut().map_or(Ok(()), |sink| sum_partials(gpu, &partial, sink))
    }
}

impl NormRope {
    /// The gradient of x, and parts of the gain's, `[parts, d]`.
    fn backward_cuda(&self, gpu: Cuda, saved: &rms_norm::Saved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let rms_norm::Saved { x, w, inverse_rms } = saved;
        let [b, t, heads, d] = x.dims_n(Self::NAME)?;
        expect_dtype(Self::NAME, dy, x.dtype())?;
        let [cos, sin] = self.tables(x)?;
        let (rows, lanes) = (b * t * heads, lanes(d, x.dtype()));
        // Each block sums the gain's gradient over its rows, so there are no more than keep the card busy.
        let blocks = rows.div_ceil(rms_norm::THREADS / lanes).min(6 * gpu.multiprocessors() as usize);
        let mut partial = Tensor::empty(&[blocks, d], DType::F32, &x.device())?;
        let mut dx = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        let launch =
            gpu.kernel("norm_rope", "norm_rope_backward", x.dtype())?.read(x)?.read(w)?.read(inverse_rms)?;
        let launch = launch.read(&cos)?.read(&sin)?.read(dy)?.write(&mut dx)?.write(&mut partial)?;
        let launch = launch.value(count(Self::NAME, rows)?).value(t as u32).value(heads as u32);
        let launch = launch.value(d as u32).value(lanes as u32);
        // SAFETY: these are the arguments of norm_rope_backward; it reads and writes rows·d elements, and each block its row of
        // `partial`.
        unsafe { launch.run(Grid::blocks(blocks, rms_norm::THREADS as u32)) }?;
        Ok((dx, partial))
    }
}
