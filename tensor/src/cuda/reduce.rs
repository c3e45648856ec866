//! Launches of `kernels/reduce.cu`: reductions in an order fixed by shape.

use super::{Cuda, Grid};
use crate::{DType, Result, Tensor};

/// Threads of a block, `FOLD_THREADS` of `kernels/fold.cuh`.
const THREADS: usize = 256;
/// Rows up to this length are reduced by a warp, longer ones by a block.
const WARP_ROW: usize = 1024;
/// Blocks that a reduction is split into at most, and the least elements of one split.
const SPLITS: usize = 512;
const SPLIT_ROW: usize = 8192;
const SPLIT_COLUMN: usize = 64;
const GRID_SIDE: usize = 65_535;

/// Threads that share a row of `n` elements.
pub(super) fn threads_per_row(n: usize) -> usize {
    if n <= WARP_ROW { 32 } else { THREADS }
}

/// One block for the rows that it can hold together.
pub(super) fn row_grid(rows: usize, threads_per_row: usize) -> Grid {
    Grid::blocks((rows * threads_per_row).div_ceil(THREADS).min(GRID_SIDE), THREADS as u32)
}

/// Reduces the middle axis of a contiguous tensor seen as `[outer, n, inner]` into `out` `[outer, inner]`. `fold` is `sum`
/// (divided by `divisor`), `norm`, `max`, `min` or `argmax`.
pub(crate) fn reduce(
    gpu: Cuda,
    fold: &str,
    divisor: f64,
    x: &Tensor,
    [outer, n, inner]: [usize; 3],
    out: &mut Tensor,
) -> Result<()> {
    let count = outer * inner;
    if count == 0 {
        return Ok(());
    }
    let dtype = x.dtype();
    let by_rows = inner == 1;
    let (group, tiles) = (threads_per_row(n), inner.div_ceil(32));
    let (blocks, least) = if by_rows {
        ((outer * group).div_ceil(THREADS), if group < THREADS { n } else { SPLIT_ROW })
    } else {
        (tiles * outer, SPLIT_COLUMN)
    };
    let splits = n.div_ceil(least.max(1)).min(SPLITS / blocks.min(SPLITS)).max(1);
    // Splits begin at whole vectors.
    let length = n.div_ceil(splits).next_multiple_of(4).max(4);
    let splits = n.div_ceil(length).max(1);
    // Whatever a fold accumulates takes eight bytes at most.
    let mut parts =
        (splits > 1).then(|| Tensor::empty(&[splits, count], DType::I64, &x.device())).transpose()?;
    let axis = if by_rows { "rows" } else { "columns" };
    let mut launch = gpu.entry("reduce", format!("reduce_{axis}_{fold}_{dtype}"));
    launch = launch.read(x)?.write(out)?.write_optional(parts.as_mut())?;
    launch = launch.value(outer as u64).value(n as u64);
    let grid = if by_rows {
        launch = launch.value(length as u64).value(group as u32);
        let [x, ..] = row_grid(outer, group).blocks;
        [x as usize, splits, 1]
    } else {
        launch = launch.value(inner as u64).value(length as u64);
        [tiles, splits, outer.min(GRID_SIDE)]
    };
    let grid = Grid { blocks: grid.map(|n| n as u32), threads: THREADS as u32, shared: 0 };
    // SAFETY: `x` holds outer·n·inner elements, `out` outer·inner, and the parts as many for each split.
    unsafe { launch.value(divisor).run(grid) }?;
    if let Some(parts) = parts {
        let launch = gpu.entry("reduce", format!("reduce_partials_{fold}_{dtype}"));
        let launch = launch.read(&parts)?.write(out)?.value(count as u64).value(splits as u64);
        // SAFETY: as above.
        unsafe { launch.value(divisor).run(Grid::strided(gpu, count)) }?;
    }
    Ok(())
}
