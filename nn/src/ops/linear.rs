//! Dense matrix products with weights.

use super::with_last;
use autograd::{GradSink, Grads, Op, Outputs};
use tensor::cpu::gemm::{MatMut, MatRef, gemm};
use tensor::cuda::Mat;
use tensor::{Device, Element, Error, Float, Result, Tensor, with_float};

/// `yᵢ = x·Wᵢᵀ` for one to four weights over the same input (q, k and v; gate and up). Inputs: x `[…, K]`, then each
/// W `[N, K]`; an output `[…, N]` a weight. No bias.
///
/// On a GPU x and outputs may be bf16 beside weights in f32, which are rounded for the products; their gradients are f32.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

/// Rows and columns of a weight that fits `x`.
pub(super) fn weight_dims(op: &'static str, x: &Tensor, w: &Tensor) -> Result<[usize; 2]> {
    let [n, k] = w.dims_n(op)?;
    if k != x.last_dim() || x.rank() == 0 {
        return Err(Error::shape(op, format!("x {:?} does not fit a weight {:?}", x.dims(), w.dims())));
    }
    Ok([n, k])
}

/// A contiguous tensor as a matrix whose rows are its last axis.
pub(super) fn rows_of<T: Float>(x: &Tensor) -> Result<MatRef<'_, T>> {
    let cols = x.last_dim();
    Ok(MatRef::row_major(x.as_slice::<T>()?, x.numel() / cols.max(1), cols))
}

/// As [`rows_of`], for writing.
pub(super) fn rows_of_mut<T: Float>(x: &mut Tensor) -> Result<MatMut<'_, T>> {
    let cols = x.last_dim();
    let rows = x.numel() / cols.max(1);
    Ok(MatMut::row_major(x.as_mut_slice::<T>()?, rows, cols))
}

impl Op for Linear {
    const NAME: &'static str = "linear";
    /// x, then the weights.
    type Saved = Outputs;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Outputs>)> {
        let saved: Outputs = inputs.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
        let x = &saved[0];
        let mut outputs = Outputs::new();
        for w in &saved[1..] {
            let [n, _] = weight_dims(Self::NAME, x, w)?;
            let mut y = Tensor::empty(&with_last(x, n), x.dtype(), &x.device())?;
            if let Device::Cuda(gpu) = x.device() {
                let w = w.to_dtype(x.dtype())?;
                gpu.matmul(1.0, Mat::rows(x)?, Mat::rows(&w)?.t(), 0.0, &mut y)?;
                outputs.push(y);
                continue;
            }
            with_float!(Self::NAME, x.dtype(), T => {
                gemm::<T>(T::ONE, rows_of::<T>(x)?, rows_of::<T>(w)?.t(), T::ZERO, rows_of_mut::<T>(&mut y)?);
                Ok(())
            })?;
            outputs.push(y);
        }
        Ok((outputs, keep.then_some(saved)))
    }

    /// `dX = Σ dYᵢ·Wᵢ`, `dWᵢ = dYᵢᵀ·X`.
    fn backward(&self, saved: Outputs, dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let x = &saved[0];
        let (dx, dw) = dx.split_at_mut(1);
        for ((w, dy), dw) in saved[1..].iter().zip(dy).zip(dw) {
            let Some(dy) = dy else { continue };
            let dy = dy.contiguous()?;
            if let Device::Cuda(gpu) = x.device() {
                if let Some(sink) = &mut dx[0] {
                    let w = w.to_dtype(x.dtype())?;
                    sink.accumulate(|dx, beta| {
                        gpu.matmul(1.0, Mat::rows(&dy)?, Mat::rows(&w)?, beta as f32, dx)
                    })?;
                }
                if let Some(sink) = dw {
                    sink.accumulate(|dw, beta| {
                        gpu.matmul(1.0, Mat::rows(&dy)?.t(), Mat::rows(x)?, beta as f32, dw)
                    })?;
                }
                continue;
            }
            with_float!(Self::NAME, x.dtype(), T => {
                if let Some(sink) = &mut dx[0] {
                    sink.accumulate(|dx, beta| {
                        gemm::<T>(T::ONE, rows_of::<T>(&dy)?, rows_of::<T>(w)?, T::from_f64(beta), rows_of_mut::<T>(dx)?);
                        Ok(())
                    })?;
                }
                if let Some(sink) = dw {
                    sink.accumulate(|dw, beta| {
                        gemm::<T>(T::ONE, rows_of::<T>(&dy)?.t(), rows_of::<T>(x)?, T::from_f64(beta), rows_of_mut::<T>(dw)?);
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
