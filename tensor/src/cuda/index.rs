//! Launches of `kernels/index.cu`.

use super::{Cuda, Grid, sort};
use crate::{DType, Error, Result, Tensor};

/// The ids as i64, row-major, each checked to be below `bound`. Waits for the GPU.
pub(crate) fn ids(gpu: Cuda, op: &'static str, ids: &Tensor, bound: usize) -> Result<Tensor> {
    let ids = ids.to_dtype(DType::I64)?.contiguous()?;
    let mut bad = Tensor::empty(&[2], DType::I64, &ids.device())?;
    let launch = gpu.entry("index", "index_check").read(&ids)?.write(&mut bad)?;
    // SAFETY: the kernel reads the ids and writes two numbers.
    unsafe { launch.value(ids.numel() as u64).value(bound as u64).run(Grid::blocks(1, 1024)) }?;
    let bad = bad.to_vec::<i64>()?;
    if bad[0] < 0 {
        return Ok(ids);
    }
    Err(Error::argument(op, format!("id {} at position {} is outside 0..{bound}", bad[1], bad[0])))
}

/// `out` `[outer, ids, inner]` of contiguous `x` `[outer, n, inner]`.
pub(crate) fn select(
    gpu: Cuda,
    x: &Tensor,
    ids: &Tensor,
    [n, inner]: [usize; 2],
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "index_select";
    let (from, to) = (x.device_address(gpu, OP)?, out.device_address_mut(gpu, OP)?);
    let slice = inner * x.dtype().size();
    let places = [from, to, slice as u64];
    let unit = places.iter().map(|place| 1usize << place.trailing_zeros().min(4)).min().unwrap_or(1);
    let (units, count) = (slice / unit, out.numel() * x.dtype().size() / unit);
    let mut launch = gpu.entry("index", format!("index_select_{unit}")).value(from).read(ids)?.value(to);
    for n in [count, n, ids.numel(), units] {
        launch = launch.value(n as u64);
    }
    // SAFETY: the ids are below `n`; slices of `units` units fill `x` and `out`, whose addresses are multiples of a unit.
    unsafe { launch.run(Grid::strided(gpu, count)) }
}

/// `out[row, j] = x[row, ids[row, j]]` of contiguous `x` `[rows, n]` and ids `[rows, k]`.
pub(crate) fn gather(
    gpu: Cuda,
    x: &Tensor,
    ids: &Tensor,
    [n, k]: [usize; 2],
    out: &mut Tensor,
) -> Result<()> {
    let count = out.numel();
    let launch = gpu.entry("index", format!("index_gather_{}", x.dtype().size())).read(x)?.read(ids)?;
    let launch = launch.write(out)?.value(count as u64).value(n as u64).value(k as u64);
    // SAFETY: the ids are below `n`, and as many as elements of `out`.
    unsafe { launch.run(Grid::strided(gpu, count)) }
}

/// `to[ids[i]] += rows[i]`, for one i after the other where ids repeat: rows of `inner` elements, contiguous.
pub(crate) fn scatter_add(
    gpu: Cuda,
    to: &mut Tensor,
    ids: &Tensor,
    rows: &Tensor,
    inner: usize,
) -> Result<()> {
    const OP: &str = "scatter_add";
    let count = ids.numel();
    let address = to.device_address_mut(gpu, OP)?;
    super::check_float(OP, to.dtype())?;
    if count == 0 || inner == 0 {
        return Ok(());
    }
    // A key holds the destination in its upper half and the source in its lower one.
    if [count, to.dims()[0]].iter().any(|&n| u32::try_from(n).is_err()) {
        return Err(Error::argument(OP, "more than 2^32 rows on a GPU"));
    }
    let width = sort::padded(count);
    let mut keys = Tensor::empty(&[width], DType::I64, &to.device())?;
    let launch = gpu.entry("index", "index_scatter_keys").read(ids)?.write(&mut keys)?;
    // SAFETY: the kernel reads `count` ids and writes `width` keys.
    unsafe { launch.value(count as u64).value(width as u64).run(Grid::strided(gpu, width)) }?;
    sort::sort_keys(gpu, &mut keys, width)?;
    let launch = gpu.kernel("index", "index_scatter_add", to.dtype())?.read(&keys)?.read(rows)?;
    let launch = launch.value(address).value(count as u64).value(inner as u64);
    let blocks = [count.min(1 << 20), inner.div_ceil(256).min(65_535), 1].map(|n| n as u32);
    // SAFETY: the keys name rows of `to` and of `rows`, of `inner` elements; each block owns the rows it writes.
    unsafe { launch.run(Grid { blocks, threads: 256, shared: 0 }) }
}
