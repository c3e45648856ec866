//! Launches of `kernels/copy.cu`: copies from a strided view into row-major memory.

use super::{Cuda, Grid, walk};
use crate::cpu::walk::Walk;
use crate::{Result, Tensor};

const OP: &str = "copy_from";
/// Shorter sides are not worth a tile.
const SIDE: usize = 16;
/// Most blocks along a grid's y and z.
const GRID_SIDE: usize = 65_535;

/// Writes the elements of `from` to `to`, of the same dimensions and type.
pub(crate) fn strided(gpu: Cuda, from: &Tensor, to: &mut Tensor) -> Result<()> {
    let (count, size) = (to.numel(), to.dtype().size());
    let (source, address) = (from.device_address(gpu, OP)?, to.device_address_mut(gpu, OP)?);
    if from.is_contiguous() {
        return gpu.copy(source, address, count * size);
    }
    let walk = Walk::new([from.layout()]);
    let (columns, step) = (walk.inner, walk.steps[0]);
    let rows = walk.transposed().filter(|&rows| rows >= SIDE && columns >= SIDE && step > 1);
    let fits = |n: usize| u32::try_from(n).is_ok();
    if let Some(rows) = rows.filter(|&rows| fits(rows) && fits(columns)) {
        let outer = walk.axes().count() - 2;
        let matrices = count / (rows * columns);
        let launch = gpu.entry("copy", format!("copy_transposed_{size}")).value(source).value(address);
        let launch = launch.value(walk::axes(OP, walk.axes().take(outer))?).value(matrices as u64);
        let blocks = [columns.div_ceil(32), rows.div_ceil(32).min(GRID_SIDE), matrices.min(GRID_SIDE)];
        let grid = Grid { blocks: blocks.map(|n| n as u32), threads: 256, shared: 0 };
        // SAFETY: the walk's axes and the matrices' sides are those of `from`; together they are the elements of `to`.
        return unsafe { launch.value(rows as u32).value(columns as u32).value(step as u64).run(grid) };
    }
    let launch = gpu.entry("copy", format!("copy_strided_{size}")).value(source).value(address);
    let launch = launch.value(walk::axes(OP, walk.axes())?).value(count as u64);
    // SAFETY: the kernel reads what the layout selects, and writes `count` elements of `to`.
    unsafe { launch.run(Grid::strided(gpu, count)) }
}

/// Writes the rows of a contiguous tensor, `width` elements each, into the rows of `to`, `pitch` elements each, from
/// element `offset` of every row.
pub(crate) fn into_rows(
    gpu: Cuda,
    from: &Tensor,
    to: &mut Tensor,
    [width, pitch, offset]: [usize; 3],
) -> Result<()> {
    let (count, size) = (from.numel(), from.dtype().size());
    if count == 0 {
        return Ok(());
    }
    let launch = gpu.entry("copy", format!("copy_into_rows_{size}")).read(from)?.write(to)?;
    let launch = launch.value(count as u64).value(width as u64).value(pitch as u64).value(offset as u64);
    // SAFETY: `to` holds `count / width` rows of `pitch` elements, and `offset + width` is at most `pitch`.
    unsafe { launch.run(Grid::strided(gpu, count)) }
}
