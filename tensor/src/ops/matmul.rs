//! Matrix products.

use crate::cpu::gemm::{GemmScalar, MatMut, MatRef, gemm, gemm_batched};
use crate::cpu::walk::Walk;
use crate::cuda::{Cuda, Mat};
use crate::layout::broadcast_dims;
use crate::{Device, Error, Float, Layout, Result, Tensor, with_float};

impl Tensor {
    /// Matrix product over the last two axes: `[.., m, k] · [.., k, n] = [.., m, n]`, leading axes broadcasting.
    ///
    /// Both are f32 or both f64 (both f32 or both bf16 on a GPU), of rank two or more, with any strides: a transposed operand costs no copy.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        const OP: &str = "matmul";
        self.same_dtype(OP, other)?;
        let (a, b) = (self.dims(), other.dims());
        let (Some((a_batch, &[m, k])), Some((b_batch, &[k_other, n]))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return Err(Error::shape(OP, format!("dims {a:?} and {b:?} need at least two axes each")));
        };
        if k != k_other {
            return Err(Error::shape(
                OP,
                format!("dims {a:?} and {b:?}: {k} columns do not meet {k_other} rows"),
            ));
        }
        let mut dims = broadcast_dims(OP, a_batch, b_batch).map_err(|_| {
            Error::shape(OP, format!("the leading axes of dims {a:?} and {b:?} do not broadcast"))
        })?;
        let batch = dims.clone();
        dims.extend([m, n]);
        let mut out = Tensor::empty(&dims, self.dtype(), &self.device())?;
        if k == 0 {
            out.fill(0.0)?;
        } else if out.numel() > 0 {
            // One matrix for all: the rows of every batch go through it as one product.
            let rows = out.numel() / n;
            let flat = self.layout().reshape(&[rows, k]);
            if let Device::Cuda(gpu) = self.device() {
                match flat {
                    Ok(_) if other.rank() == 2 => {
                        let a = self.reshape(&[rows, k])?;
                        product(gpu, &a, other, &mut out)?;
                    }
                    _ => {
                        let count = batch.iter().product();
                        let batched = |x: &Tensor, rows: usize, cols: usize| {
                            let mut dims = batch.clone();
                            dims.extend([rows, cols]);
                            x.broadcast_to(&dims)?.reshape(&[count, rows, cols])
                        };
                        product(gpu, &batched(self, m, k)?, &batched(other, k, n)?, &mut out)?;
                    }
                }
                return Ok(out);
            }
            with_float!(OP, self.dtype(), T => {
                let (x, y) = (self.as_strided::<T>()?, other.as_strided::<T>()?);
                let to = out.as_mut_slice::<T>()?;
                match flat {
                    Ok(flat) if other.rank() == 2 => {
                        let a = matrix(&x[flat.offset()..], &flat);
                        let b = matrix(&y[other.layout().offset()..], other.layout());
                        gemm(T::ONE, a, b, T::ZERO, MatMut::row_major(to, rows, n));
                    }
                    _ => batched((x, self.layout()), (y, other.layout()), &batch, to)?,
                }
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// `out = a·b` of matrices or batches of them; strides that cuBLASLt cannot take cost a copy.
fn product(gpu: Cuda, a: &Tensor, b: &Tensor, out: &mut Tensor) -> Result<()> {
    let plain = |x: &Tensor| if Mat::view(x).is_ok() { Ok(x.clone()) } else { x.copy() };
    let (a, b) = (plain(a)?, plain(b)?);
    gpu.matmul(1.0, Mat::view(&a)?, Mat::view(&b)?, 0.0, out)
}

/// The matrix of a layout's last two axes, starting where `data` does.
fn matrix<'a, T: GemmScalar>(data: &'a [T], layout: &Layout) -> MatRef<'a, T> {
    let at = layout.dims().len() - 2;
    let (dims, strides) = (&layout.dims()[at..], &layout.strides()[at..]);
    MatRef::new(data, dims[0], dims[1], strides[0], strides[1])
}

/// A layout's leading axes alone, broadcast to `batch`; the last two must not be empty.
fn leading(layout: &Layout, batch: &[usize]) -> Result<Layout> {
    let mut out = layout.clone();
    for _ in 0..2 {
        let last = out.dims().len() - 1;
        out = out.narrow(last, 0, 1)?.squeeze(last)?;
    }
    out.broadcast_to(batch)
}

fn batched<T: Float>(
    (x, a): (&[T], &Layout),
    (y, b): (&[T], &Layout),
    batch: &[usize],
    out: &mut [T],
) -> Result<()> {
    let count: usize = batch.iter().product();
    let (a_lead, b_lead) = (leading(a, batch)?, leading(b, batch)?);
    let walk = Walk::new([&a_lead, &b_lead]);
    let mut offsets = Vec::with_capacity(count);
    walk.runs(0, count, |range, [i, j]| {
        offsets.extend((0..range.len()).map(|n| [i + n * walk.steps[0], j + n * walk.steps[1]]));
    });
    let (a, b) = (matrix(x, a), matrix(y, b));
    let size = out.len() / count;
    let offsets = |i: usize| [offsets[i][0], offsets[i][1], i * size];
    // SAFETY: the operands' offsets are those of views that lie within `x` and `y`; the outputs are consecutive
    // parts of `out`, which holds `count` of them.
    unsafe {
        let c = MatMut::from_raw(out.as_mut_ptr(), a.rows(), b.cols(), b.cols());
        gemm_batched(count, offsets, T::ONE, a, b, T::ZERO, c);
    }
    Ok(())
}
