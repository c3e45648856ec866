//! Softmax along the last axis.

use crate::{Device, Result, Tensor, cuda, with_float};

impl Tensor {
    /// e^x divided by its sum along the last axis. f32 (computed in f32, sums in f64) or f64; on a GPU
    /// f32 or bf16.
    ///
    /// The row's maximum is subtracted first, so nothing overflows. A row that is -∞ throughout gives NaN.
    pub fn softmax(&self) -> Result<Tensor> {
        self.softmax_rows("softmax", false)
    }

    /// Logarithm of [`Tensor::softmax`], as x - max - ln Σ e^(x - max).
    pub fn log_softmax(&self) -> Result<Tensor> {
        self.softmax_rows("log_softmax", true)
    }

    fn softmax_rows(&self, op: &'static str, log: bool) -> Result<Tensor> {
        let x = self.contiguous()?;
        if let Device::Cuda(gpu) = self.device() {
            return cuda::softmax::rows(gpu, op, &x, log);
        }
        let mut out = Tensor::empty(self.dims(), self.dtype(), &self.device())?;
        with_float!(op, self.dtype(), T => {
            crate::cpu::softmax::rows(x.as_slice::<T>()?, self.last_dim(), log, out.as_mut_slice::<T>()?);
            Ok(out)
        })
    }
}
