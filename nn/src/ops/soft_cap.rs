//! Smooth bound on logits (Gemma 2).

use super::{expect_dtype, packs};
use autograd::{Outputs, SimpleOp};
use smallvec::smallvec;
use tensor::cuda::Grid;
use tensor::{Device, Element, Float, Result, Tensor, with_float};

/// `y = cap · tanh(x / cap)`, any shape.
#[derive(Clone, Copy, Debug)]
pub struct SoftCap {
    /// Bound of the result, above 0.
    pub cap: f64,
}

/// `cap·tanh(x/cap)` and its slope `1 - (y/cap)²`.
#[inline(always)]
pub(crate) fn soft_cap<T: Float>(x: T, cap: T) -> T {
    cap * (x / cap).tanh()
}

/// Slope of [`soft_cap`] where its value is `y`.
#[inline(always)]
pub(crate) fn slope<T: Float>(y: T, cap: T) -> T {
    let u = y / cap;
    T::ONE - u * u
}

impl SimpleOp for SoftCap {
    const NAME: &'static str = "soft_cap";

    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0].contiguous()?;
        let mut y = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        if let Device::Cuda(gpu) = x.device() {
            let launch = gpu.kernel("soft_cap", "soft_cap_forward", x.dtype())?.read(&x)?.write(&mut y)?;
            let launch = launch.value(x.numel() as u64).value(self.cap as f32);
            // SAFETY: these are the arguments of soft_cap_forward; it reads and writes as many elements as x has.
            unsafe { launch.run(Grid::strided(gpu, packs(x.numel(), x.dtype()))) }?;
            return Ok(y);
        }
        with_float!(Self::NAME, x.dtype(), T => {
            let cap = T::from_f64(self.cap);
            for (y, &x) in y.as_mut_slice::<T>()?.iter_mut().zip(x.as_slice::<T>()?) {
                *y = soft_cap(x, cap);
            }
            Ok(())
        })?;
        Ok(y)
    }

    fn backward(&self, inputs: &[Tensor], dy: &Tensor) -> Result<Outputs> {
        let (x, dy) = (inputs[0].contiguous()?, dy.contiguous()?);
        let mut dx = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
        if let Device::Cuda(gpu) = x.device() {
            expect_dtype(Self::NAME, &dy, x.dtype())?;
            let launch = gpu.kernel("soft_cap", "soft_cap_backward", x.dtype())?;
            let launch =
                launch.read(&x)?.read(&dy)?.write(&mut dx)?.value(x.numel() as u64).value(self.cap as f32);
            // SAFETY: these are the arguments of soft_cap_backward; it reads and writes as many elements as x has.
            unsafe { launch.run(Grid::strided(gpu, packs(x.numel(), x.dtype()))) }?;
            return Ok(smallvec![dx]);
        }
        with_float!(Self::NAME, x.dtype(), T => {
            let cap = T::from_f64(self.cap);
            let from = x.as_slice::<T>()?.iter().zip(dy.as_slice::<T>()?);
            for (dx, (&x, &dy)) in dx.as_mut_slice::<T>()?.iter_mut().zip(from) {
                // 1 - tanh² cancels where tanh is near 1; 4/(e^u + e^-u)² does not.
                let u = (x / cap).abs();
                let e = (-u - u).exp();
                let sech = (T::ONE + T::ONE) * (-u).exp() / (T::ONE + e);
                *dx = dy * sech * sech;
            }
            Ok(())
        })?;
        Ok(smallvec![dx])
    }
}
