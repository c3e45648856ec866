//! Launches of `kernels/sort.cu`.

use super::{Cuda, Grid};
use crate::{DType, Result, Tensor};

/// Keys that a block sorts in shared memory.
const CHUNK: usize = 4096;
/// Up to so many, the largest are found chunk by chunk without sorting the rest.
const SELECTED: usize = 1024;

/// For each row of a contiguous tensor, of length `n`, writes the first `k` positions of its sorted order and the values
/// there.
pub(crate) fn rows(
    gpu: Cuda,
    x: &Tensor,
    n: usize,
    k: usize,
    descending: bool,
    values: &mut Tensor,
    positions: &mut Tensor,
) -> Result<()> {
    if k == 0 || values.numel() == 0 {
        return Ok(());
    }
    let rows = x.numel() / n;
    let select = k <= SELECTED && n > CHUNK;
    let mut width = if select { n.next_multiple_of(CHUNK) } else { padded(n) };
    let mut keys = Tensor::empty(&[rows, width], DType::I64, &x.device())?;
    let launch = gpu.kernel("sort", "sort_keys", x.dtype())?.read(x)?.write(&mut keys)?;
    let launch = launch.value(rows as u64).value(n as u64).value(width as u64).value(u32::from(descending));
    // SAFETY: `x` holds `rows` rows of `n` elements, the keys as many rows of `width`.
    unsafe { launch.run(Grid::strided(gpu, rows * width)) }?;
    if select {
        (keys, width) = select_keys(gpu, keys, rows, k)?;
    } else {
        sort_keys(gpu, &mut keys, width)?;
    }
    let launch = gpu.kernel("sort", "sort_take", x.dtype())?.read(&keys)?.read(x)?.write(values)?;
    let launch = launch.write(positions)?.value(rows as u64).value(n as u64);
    // SAFETY: the keys of each row hold positions below `n`, and `k` of them are taken.
    unsafe { launch.value(k as u64).value(width as u64).run(Grid::strided(gpu, rows * k)) }
}

/// The first `k` keys in order of each of so many rows of whole chunks, in longer rows of the length returned.
fn select_keys(gpu: Cuda, mut keys: Tensor, rows: usize, k: usize) -> Result<(Tensor, usize)> {
    loop {
        let count = keys.numel() / rows / CHUNK;
        chunks(gpu, &mut keys, CHUNK, CHUNK, [2, CHUNK])?;
        if count == 1 {
            return Ok((keys, CHUNK));
        }
        // Each chunk's first ones, side by side: at most a quarter is left.
        let width = (count * k).next_multiple_of(CHUNK);
        let mut best = Tensor::empty(&[rows, width], DType::I64, &keys.device())?;
        let mut launch = gpu.entry("sort", "sort_compact").read(&keys)?.write(&mut best)?;
        for n in [rows, count, CHUNK, k, width] {
            launch = launch.value(n as u64);
        }
        // SAFETY: the keys hold `rows` rows of `count` chunks, the result as many rows of `width` keys.
        unsafe { launch.run(Grid::strided(gpu, rows * width)) }?;
        keys = best;
    }
}

/// Keys of a row that [`sort_keys`] can sort: a power of two.
pub(super) fn padded(n: usize) -> usize {
    n.next_power_of_two().max(64)
}

/// Sorts each row of `width` keys, a power of two.
pub(super) fn sort_keys(gpu: Cuda, keys: &mut Tensor, width: usize) -> Result<()> {
    let pairs = keys.numel() / 2;
    let chunk = width.min(CHUNK);
    chunks(gpu, keys, width, chunk, [2, chunk])?;
    let mut run = 2 * chunk;
    while run <= width {
        let mut step = run / 2;
        while step >= chunk {
            let mut launch = gpu.entry("sort", "sort_step").write(keys)?;
            for n in [pairs, width, run, step] {
                launch = launch.value(n as u64);
            }
            // SAFETY: the keys hold `pairs` pairs of keys `step` apart, within runs that lie within rows.
            unsafe { launch.run(Grid::strided(gpu, pairs)) }?;
            step /= 2;
        }
        chunks(gpu, keys, width, chunk, [run, run])?;
        run *= 2;
    }
    Ok(())
}

/// The merges of runs of `first` to `last` keys, within chunks of rows of `width` keys.
fn chunks(gpu: Cuda, keys: &mut Tensor, width: usize, chunk: usize, [first, last]: [usize; 2]) -> Result<()> {
    let grid = Grid::blocks(keys.numel() / chunk, (chunk / 2).min(1024) as u32).with_shared(8 * chunk);
    let launch = gpu.entry("sort", "sort_chunks").write(keys)?.value(width as u64).value(chunk as u32);
    // SAFETY: the keys are whole chunks, one a block, which fits the shared memory asked for.
    unsafe { launch.value(first as u64).value(last as u64).run(grid) }
}
