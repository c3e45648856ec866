//! Rotary position embedding (Su et al. 2021), rotate-half convention.

use super::{count, expect_dims, expect_dtype, packs};
use autograd::{GradSink, Grads, Op, Outputs};
use rayon::prelude::*;
use smallvec::smallvec;
use std::sync::Arc;
use tensor::cpu::parallel::rows_per_task;
use tensor::cpu::simd::dispatch;
use tensor::cuda::{Cuda, Grid};
use tensor::{DType, Device, Float, Result, Tensor, with_float};

/// Cosines and sines of the angles `pos · θ^(-2i/d)`, computed in f64: `[positions, d/2]` each. f32 on a GPU, whatever
/// the type of what is rotated.
#[derive(Clone, Debug)]
pub struct RopeTables {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTables {
    /// Tables for `positions`, stored as `dtype`.
    pub fn new(
        positions: impl IntoIterator<Item = usize>,
        head_dim: usize,
        theta: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let half = head_dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for i in 0..half {
                let angle = position as f64 * theta.powf(-((2 * i) as f64) / head_dim as f64);
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        let dims = [cos.len() / half.max(1), half];
        let table = |values: &[f64]| {
            Tensor::from_slice(values, &dims, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        Ok(RopeTables { cos: table(&cos)?, sin: table(&sin)? })
    }

    /// The part for positions `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        Ok(RopeTables { cos: self.cos.narrow(0, start, len)?, sin: self.sin.narrow(0, start, len)? })
    }

    /// Cosines `[positions, d/2]`.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// Sines `[positions, d/2]`.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}

/// Rotates the pairs `(x[i], x[i + d/2])` of each head by its position's angles. Input and output `[B, T, heads, d]`;
/// row `t` of the tables belongs to position `t` of every sequence.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Angles of the T positions.
    pub tables: Arc<RopeTables>,
}

impl Rope {
    fn rotate(&self, x: &Tensor, forward: bool) -> Result<Tensor> {
        let [_, t, heads, d] = x.dims_n("rope")?;
        let (cos, sin) = (self.tables.cos.contiguous()?, self.tables.sin.contiguous()?);
        expect_dims("rope", "table", &cos, &[t, d / 2])?;
        let x = x.contiguous()?;
        if let Device::Cuda(gpu) = x.device() {
            return rotate_cuda(gpu, &x, &cos, &sin, forward);
        }
        let mut y = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        with_float!("rope", x.dtype(), T => {
            rotate::<T>(x.as_slice()?, cos.as_slice()?, sin.as_slice()?, forward, [t, heads, d], y.as_mut_slice()?);
            Ok(())
        })?;
        Ok(y)
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _keep: bool) -> Result<(Outputs, Option<()>)> {
        Ok((smallvec![self.rotate(inputs[0], true)?], Some(())))
    }

    /// The transpose of a rotation is the rotation back.
    fn backward(&self, (): (), mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        if let (Some(dy), Some(sink)) = (dy.pop().flatten(), dx[0].as_mut()) {
            sink.give(self.rotate(&dy, false)?)?;
        }
        Ok(())
    }
}

fn rotate<T: Float>(x: &[T], cos: &[T], sin: &[T], forward: bool, [t, heads, d]: [usize; 3], y: &mut [T]) {
    let (row, half) = (heads * d, d / 2);
    if row == 0 {
        return;
    }
    let rows = rows_per_task(row);
    y.par_chunks_mut(rows * row).zip(x.par_chunks(rows * row)).enumerate().for_each(|(task, (y, x))| {
        dispatch(
            #[inline(always)]
            || {
                for (i, (y, x)) in y.chunks_exact_mut(row).zip(x.chunks_exact(row)).enumerate() {
                    let position = (task * rows + i) % t;
                    let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
                    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let (y1, y2) = y.split_at_mut(half);
                        let (x1, x2) = x.split_at(half);
                        for i in 0..half {
                            let s = if forward { sin[i] } else { -sin[i] };
                            y1[i] = x1[i] * cos[i] - x2[i] * s;
                            y2[i] = x2[i] * cos[i] + x1[i] * s;
                        }
                    }
                }
            },
        )
    });
}

fn rotate_cuda(gpu: Cuda, x: &Tensor, cos: &Tensor, sin: &Tensor, forward: bool) -> Result<Tensor> {
    let [b, t, heads, d] = x.dims_n("rope")?;
    expect_dtype("rope", cos, DType::F32)?;
    let mut y = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
    let items = b * t * heads * packs(d / 2, x.dtype());
    count("rope", items)?;
    let launch =
        gpu.kernel("rope", "rope_rotate", x.dtype())?.read(x)?.read(cos)?.read(sin)?.write(&mut y)?;
    let launch = launch.value((b * t) as u32).value(t as u32).value(heads as u32).value(d as u32);
    let launch = launch.value(if forward { 1f32 } else { -1.0 });
    // SAFETY: these are the arguments of rope_rotate; it reads b·t·heads·d elements of x and t·d/2 of each table, and
    // writes as many of y as of x.
    unsafe { launch.run(Grid::strided(gpu, items)) }?;
    Ok(y)
}
