//! Order along the last axis.

use crate::{DType, Device, Error, Result, Tensor, cuda, with_float};

impl Tensor {
    /// The elements along the last axis in ascending or descending order, and the positions (u32) they had.
    ///
    /// Stable in both directions: equal elements keep their order. NaN counts as larger than everything, so it comes
    /// last, or first if `descending`; zeros of both signs are equal. f32 or f64 (f32 or bf16 on a GPU).
    pub fn sort(&self, descending: bool) -> Result<(Tensor, Tensor)> {
        self.sort_rows("sort", self.last_dim(), descending)
    }

    /// The `k` largest elements along the last axis, largest first, and their positions (u32).
    ///
    /// Exactly the first `k` of [`Tensor::sort`] descending, found without sorting the rest.
    pub fn topk(&self, k: usize) -> Result<(Tensor, Tensor)> {
        self.sort_rows("topk", k, true)
    }

    fn sort_rows(&self, op: &'static str, k: usize, descending: bool) -> Result<(Tensor, Tensor)> {
        let n = self.last_dim();
        if self.rank() == 0 || k > n || u32::try_from(n).is_err() {
            return Err(Error::shape(op, format!("{k} elements of the last axis of dims {:?}", self.dims())));
        }
        let x = self.contiguous()?;
        let mut dims = crate::Dims::from_slice(self.dims());
        dims[self.rank() - 1] = k;
        let mut values = Tensor::empty(&dims, self.dtype(), &self.device())?;
        let mut positions = Tensor::empty(&dims, DType::U32, &self.device())?;
        if let Device::Cuda(gpu) = self.device() {
            cuda::check_float(op, self.dtype())?;
            cuda::sort::rows(gpu, &x, n, k, descending, &mut values, &mut positions)?;
            return Ok((values, positions));
        }
        with_float!(op, self.dtype(), T => {
            let (v, p) = (values.as_mut_slice::<T>()?, positions.as_mut_slice::<u32>()?);
            crate::cpu::sort::rows(x.as_slice::<T>()?, n, k, descending, v, p);
            Ok((values, positions))
        })
    }
}
