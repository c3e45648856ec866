//! Sums, means, extremes and norms, in an order that only shape and strides determine.

use crate::cpu::parallel;
use crate::cpu::reduce::{self, Fold, Max, Min, Norm, Sum};
use crate::cuda::Cuda;
use crate::{DType, Device, Dims, Error, Result, Tensor, cuda, with_float};

/// A fold as `kernels/reduce.cu` names it.
#[derive(Clone, Copy)]
struct Kernel {
    fold: &'static str,
    divisor: f64,
}

impl Kernel {
    fn of<F: Fold<f32>>(fold: F) -> Self {
        Kernel { fold: F::NAME, divisor: fold.divisor() }
    }
}

macro_rules! axis_op {
    ($($what:literal, $name:ident, $all:ident => $fold:expr, $empty:literal;)*) => {$(
        #[doc = concat!($what, " along an axis, which stays with length 1 if `keepdim`, else disappears. f32 or f64 (f32 or bf16 on a GPU).")]
        pub fn $name(&self, axis: usize, keepdim: bool) -> Result<Tensor> {
            const OP: &str = stringify!($name);
            self.layout().axis(OP, axis)?;
            let n = self.dims()[axis];
            if !$empty && n == 0 {
                return Err(Error::shape(OP, format!("axis {axis} of dims {:?} is empty", self.dims())));
            }
            let fold: fn(usize) -> _ = $fold;
            if let Device::Cuda(gpu) = self.device() {
                return self.fold_axis_on(gpu, OP, Kernel::of(fold(n)), (axis, keepdim), self.dtype());
            }
            with_float!(OP, self.dtype(), T => self.fold_axis::<T, _>(fold(n), axis, keepdim))
        }

        #[doc = concat!($what, " of all elements, as a rank-0 tensor. f32 or f64 (f32 or bf16 on a GPU).")]
        pub fn $all(&self) -> Result<Tensor> {
            const OP: &str = stringify!($all);
            if !$empty && self.numel() == 0 {
                return Err(Error::shape(OP, format!("dims {:?} hold no element", self.dims())));
            }
            let fold: fn(usize) -> _ = $fold;
            if let Device::Cuda(gpu) = self.device() {
                return self.fold_all_on(gpu, OP, Kernel::of(fold(self.numel())));
            }
            with_float!(OP, self.dtype(), T => self.fold_all::<T, _>(fold(self.numel())))
        }
    )*};
}

impl Tensor {
    axis_op! {
        "Sum, accumulated in f64", sum, sum_all => |_| Sum { divisor: 1.0 }, true;
        "Mean, accumulated in f64, NaN over nothing", mean, mean_all => |n| Sum { divisor: n as f64 }, true;
        "Largest element, NaN if any is", max, max_all => |_| Max, false;
        "Smallest element, NaN if any is", min, min_all => |_| Min, false;
    }

    /// Euclidean norm of all elements, accumulated in f64, as a rank-0 tensor. f32 or f64 (f32 or bf16 on a GPU).
    pub fn norm(&self) -> Result<Tensor> {
        if let Device::Cuda(gpu) = self.device() {
            return self.fold_all_on(gpu, "norm", Kernel::of(Norm));
        }
        with_float!("norm", self.dtype(), T => self.fold_all::<T, _>(Norm))
    }

    /// Position of the largest element along an axis, as u32: the first of equal ones, the first NaN if there is one.
    ///
    /// # Errors
    /// If the axis is empty, or the type neither f32 nor f64 (f32 nor bf16 on a GPU).
    pub fn argmax(&self, axis: usize, keepdim: bool) -> Result<Tensor> {
        const OP: &str = "argmax";
        self.layout().axis(OP, axis)?;
        let n = self.dims()[axis];
        if n == 0 || u32::try_from(n).is_err() {
            return Err(Error::shape(OP, format!("axis {axis} of dims {:?}", self.dims())));
        }
        if let Device::Cuda(gpu) = self.device() {
            let kernel = Kernel { fold: "argmax", divisor: 1.0 };
            return self.fold_axis_on(gpu, OP, kernel, (axis, keepdim), DType::U32);
        }
        let x = self.axis_last(axis)?.contiguous()?;
        let mut out = Tensor::empty(&reduced(self.dims(), axis, keepdim), DType::U32, &self.device())?;
        with_float!(OP, self.dtype(), T => {
            let x = x.as_slice::<T>()?;
            parallel::weighted(out.as_mut_slice::<u32>()?, n, |start, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = reduce::argmax(&x[(start + i) * n..][..n]);
                }
            });
            Ok(out)
        })
    }

    fn fold_all<T: crate::Float, F: Fold<T>>(&self, fold: F) -> Result<Tensor> {
        let x = self.contiguous()?;
        let mut out = Tensor::empty(&[], self.dtype(), &self.device())?;
        reduce::rows(fold, x.as_slice::<T>()?, out.as_mut_slice::<T>()?);
        Ok(out)
    }

    fn fold_axis<T: crate::Float, F: Fold<T>>(&self, fold: F, axis: usize, keepdim: bool) -> Result<Tensor> {
        let mut out = Tensor::empty(&reduced(self.dims(), axis, keepdim), self.dtype(), &self.device())?;
        let to = out.as_mut_slice::<T>()?;
        let (n, inner) = (self.dims()[axis], self.dims()[axis + 1..].iter().product::<usize>());
        let last = self.axis_last(axis)?;
        if last.is_contiguous() {
            reduce::rows(fold, last.as_slice::<T>()?, to);
        } else {
            reduce::columns(fold, self.contiguous()?.as_slice::<T>()?, n, inner, to);
        }
        Ok(out)
    }

    fn fold_all_on(&self, gpu: Cuda, op: &'static str, kernel: Kernel) -> Result<Tensor> {
        cuda::check_float(op, self.dtype())?;
        let mut out = Tensor::empty(&[], self.dtype(), &self.device())?;
        let shape = [1, self.numel(), 1];
        cuda::reduce::reduce(gpu, kernel.fold, kernel.divisor, &self.contiguous()?, shape, &mut out)?;
        Ok(out)
    }

    fn fold_axis_on(
        &self,
        gpu: Cuda,
        op: &'static str,
        kernel: Kernel,
        (axis, keepdim): (usize, bool),
        dtype: DType,
    ) -> Result<Tensor> {
        cuda::check_float(op, self.dtype())?;
        let mut out = Tensor::empty(&reduced(self.dims(), axis, keepdim), dtype, &self.device())?;
        let n = self.dims()[axis];
        let last = self.axis_last(axis)?;
        let (x, shape) = if last.is_contiguous() {
            (last, [out.numel(), n, 1])
        } else {
            let outer = self.dims()[..axis].iter().product();
            (self.contiguous()?, [outer, n, self.dims()[axis + 1..].iter().product()])
        };
        cuda::reduce::reduce(gpu, kernel.fold, kernel.divisor, &x, shape, &mut out)?;
        Ok(out)
    }

    /// A view with an axis moved to the end.
    fn axis_last(&self, axis: usize) -> Result<Tensor> {
        let order: Dims = (0..self.rank()).filter(|&a| a != axis).chain([axis]).collect();
        self.permute(&order)
    }
}

/// `dims` after a reduction along `axis`.
fn reduced(dims: &[usize], axis: usize, keepdim: bool) -> Dims {
    let mut out = Dims::from_slice(dims);
    if keepdim {
        out[axis] = 1;
    } else {
        out.remove(axis);
    }
    out
}
