//! Strided views as kernels take them.

use crate::cpu::walk::Walk;
use crate::{Error, Layout, Result};

/// `MAX_AXES` of `kernels/walk.cuh`.
const AXES: usize = 8;

/// The struct `Walk<1>` of `kernels/walk.cuh`, word by word.
pub(super) type OneView = [u64; 2 * AXES + 1];
/// The struct `Walk<2>`.
pub(super) type TwoViews = [u64; 3 * AXES + 1];

/// Writes lengths, steps view by view, and the number of axes.
fn words<const N: usize, const W: usize>(
    op: &'static str,
    axes: impl Iterator<Item = (usize, [usize; N])>,
) -> Result<[u64; W]> {
    const { assert!(W == (N + 1) * AXES + 1) };
    let mut out = [0; W];
    for (axis, (dim, steps)) in axes.enumerate() {
        if axis == AXES {
            return Err(Error::argument(
                op,
                format!("strides that need more than {AXES} axes on a GPU; call contiguous() first"),
            ));
        }
        out[axis] = dim as u64;
        for (view, step) in steps.into_iter().enumerate() {
            out[(view + 1) * AXES + axis] = step as u64;
        }
        out[W - 1] = axis as u64 + 1;
    }
    Ok(out)
}

/// One view.
pub(super) fn one(op: &'static str, view: &Layout) -> Result<OneView> {
    words(op, Walk::new([view]).axes())
}

/// Two views of equal dimensions.
pub(super) fn two(op: &'static str, a: &Layout, b: &Layout) -> Result<TwoViews> {
    words(op, Walk::new([a, b]).axes())
}

/// One view's axes, as they are.
pub(super) fn axes(op: &'static str, axes: impl Iterator<Item = (usize, [usize; 1])>) -> Result<OneView> {
    words(op, axes)
}
