//! Tensors put together and taken apart along an axis.

use crate::cpu::parallel;
use crate::{Device, Dims, Error, Result, Tensor, cuda, with_element};

impl Tensor {
    /// Joins tensors along an existing axis; all other dimensions, and the types, must agree.
    pub fn cat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        const OP: &str = "cat";
        let Some(&first) = tensors.first() else {
            return Err(Error::argument(OP, "no tensors"));
        };
        first.layout().axis(OP, axis)?;
        let mut dims = Dims::from_slice(first.dims());
        dims[axis] = 0;
        for tensor in tensors {
            first.same_dtype(OP, tensor)?;
            let fits = tensor.rank() == first.rank()
                && (0..first.rank()).all(|a| a == axis || tensor.dims()[a] == first.dims()[a]);
            if !fits {
                let message = format!("dims {:?} and {:?} along axis {axis}", first.dims(), tensor.dims());
                return Err(Error::shape(OP, message));
            }
            dims[axis] += tensor.dims()[axis];
        }
        let parts = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
        let mut out = Tensor::empty(&dims, first.dtype(), &first.device())?;
        let inner: usize = dims[axis + 1..].iter().product();
        if let Device::Cuda(gpu) = first.device() {
            let (mut offset, pitch) = (0, dims[axis] * inner);
            for part in &parts {
                let width = part.dims()[axis] * inner;
                cuda::copy::into_rows(gpu, part, &mut out, [width, pitch, offset])?;
                offset += width;
            }
            return Ok(out);
        }
        with_element!(first.dtype(), T => {
            let parts = (parts.iter().filter(|p| p.numel() > 0))
                .map(|part| Ok((part.as_slice::<T>()?, part.dims()[axis] * inner)))
                .collect::<Result<Vec<_>>>()?;
            parallel::rows(out.as_mut_slice::<T>()?, dims[axis] * inner, |outer, mut row| {
                for &(part, len) in &parts {
                    let (to, rest) = row.split_at_mut(len);
                    to.copy_from_slice(&part[outer * len..][..len]);
                    row = rest;
                }
            });
        });
        Ok(out)
    }

    /// Overwrites the elements from `start` along an axis with those of a tensor of the same type, whose other dimensions
    /// are this one's.
    ///
    /// # Errors
    /// If shapes or types do not fit, or this tensor is not contiguous or its memory is shared.
    pub fn overwrite(&mut self, axis: usize, start: usize, source: &Tensor) -> Result<()> {
        const OP: &str = "overwrite";
        self.same_dtype(OP, source)?;
        if self.narrow(axis, start, source.dims().get(axis).copied().unwrap_or(0))?.dims() != source.dims() {
            let message =
                format!("dims {:?} into {:?} from {start} of axis {axis}", source.dims(), self.dims());
            return Err(Error::shape(OP, message));
        }
        let inner: usize = self.dims()[axis + 1..].iter().product();
        let (width, pitch) = (source.dims()[axis] * inner, self.dims()[axis] * inner);
        let source = source.contiguous()?;
        if let Device::Cuda(gpu) = self.device() {
            return cuda::copy::into_rows(gpu, &source, self, [width, pitch, start * inner]);
        }
        with_element!(self.dtype(), T => {
            let rows = source.as_slice::<T>()?.chunks_exact(width.max(1));
            for (to, from) in self.writable::<T>(OP)?.chunks_exact_mut(pitch.max(1)).zip(rows) {
                to[start * inner..][..width].copy_from_slice(from);
            }
        });
        Ok(())
    }

    /// Joins tensors of equal dimensions and type along a new axis.
    pub fn stack(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let dims = tensors.first().map(|t| t.dims());
        if let Some(other) = tensors.iter().find(|t| Some(t.dims()) != dims) {
            let message = format!("dims {:?} and {:?}", dims.unwrap_or_default(), other.dims());
            return Err(Error::shape("stack", message));
        }
        let views = tensors.iter().map(|t| t.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
        Self::cat(&views.iter().collect::<Vec<_>>(), axis)
    }

    /// Views of consecutive parts of an axis, whose lengths must fill it.
    pub fn split(&self, axis: usize, lengths: &[usize]) -> Result<Vec<Tensor>> {
        self.layout().axis("split", axis)?;
        let total = lengths.iter().try_fold(0usize, |n, &l| n.checked_add(l));
        if total != Some(self.dims()[axis]) {
            let message = format!("lengths {lengths:?} do not fill axis {axis} of dims {:?}", self.dims());
            return Err(Error::shape("split", message));
        }
        let mut start = 0;
        let part = |&len: &usize| {
            start += len;
            self.narrow(axis, start - len, len)
        };
        lengths.iter().map(part).collect()
    }
}
