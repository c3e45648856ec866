//! Launches of `kernels/softmax.cu`.

use super::Cuda;
use super::reduce::{row_grid, threads_per_row};
use crate::{Result, Tensor};

/// The softmax of each row of a contiguous tensor, or its logarithm.
pub(crate) fn rows(gpu: Cuda, op: &'static str, x: &Tensor, log: bool) -> Result<Tensor> {
    let mut out = Tensor::empty(x.dims(), x.dtype(), &x.device())?;
    if x.numel() == 0 {
        return Ok(out);
    }
    let n = x.last_dim();
    let (rows, group) = (x.numel() / n, threads_per_row(n));
    super::check_float(op, x.dtype())?;
    let launch = gpu.kernel("softmax", "softmax_rows", x.dtype())?.read(x)?.write(&mut out)?;
    let launch = launch.value(rows as u64).value(n as u64).value(group as u32).value(u32::from(log));
    // SAFETY: `x` and `out` hold `rows` rows of `n` elements.
    unsafe { launch.run(row_grid(rows, group)) }?;
    Ok(out)
}
