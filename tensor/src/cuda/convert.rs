//! Launches of `kernels/convert.cu`: conversions between element types.

use super::{Cuda, Grid};
use crate::{DType, Error, Result, Tensor};

/// Converts the elements of a contiguous tensor to another type.
pub(crate) fn convert(gpu: Cuda, from: &Tensor, dtype: DType) -> Result<Tensor> {
    if let Some(&double) = [from.dtype(), dtype].iter().find(|&&t| t == DType::F64) {
        return Err(Error::dtype("to_dtype", "a type that a GPU has (f64 is for the CPU)", double));
    }
    let count = from.numel();
    let mut out = Tensor::empty(from.dims(), dtype, &from.device())?;
    let launch = gpu.entry("convert", format!("convert_{}_to_{dtype}", from.dtype())).read(from)?;
    // SAFETY: the kernel reads `count` elements and writes as many.
    unsafe { launch.write(&mut out)?.value(count as u64).run(Grid::strided(gpu, count)) }?;
    Ok(out)
}
