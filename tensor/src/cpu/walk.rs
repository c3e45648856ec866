//! Walks several strided views of equal dimensions together.

use crate::{Dims, Layout};
use smallvec::SmallVec;

/// Positions of `N` views of equal dimensions in row-major order, with axes merged where all views allow it: the
/// fewer and longer the innermost runs, the better the loops over them vectorise.
pub(crate) struct Walk<const N: usize> {
    /// Lengths of the outer axes.
    dims: Dims,
    strides: SmallVec<[[usize; N]; 6]>,
    /// Length of a run along the innermost axis, and the views' steps along it.
    pub inner: usize,
    pub steps: [usize; N],
    offsets: [usize; N],
}

impl<const N: usize> Walk<N> {
    pub fn new(layouts: [&Layout; N]) -> Self {
        let offsets = layouts.map(Layout::offset);
        let mut dims = Dims::new();
        let mut strides: SmallVec<[[usize; N]; 6]> = SmallVec::new();
        if layouts[0].numel() > 0 {
            for (axis, &dim) in layouts[0].dims().iter().enumerate().filter(|&(_, &dim)| dim != 1) {
                let step = layouts.map(|l| l.strides()[axis]);
                match (dims.last_mut(), strides.last_mut()) {
                    (Some(outer), Some(last)) if *last == step.map(|s| s * dim) => {
                        *outer *= dim;
                        *last = step;
                    }
                    _ => {
                        dims.push(dim);
                        strides.push(step);
                    }
                }
            }
        }
        let inner = dims.pop().unwrap_or(1);
        let steps = strides.pop().unwrap_or([1; N]);
        Walk { dims, strides, inner, steps, offsets }
    }

    /// Lengths of the merged axes, outermost first, and the views' steps along each; none for a single element.
    pub fn axes(&self) -> impl DoubleEndedIterator<Item = (usize, [usize; N])> {
        let outer = self.dims.iter().copied().zip(self.strides.iter().copied());
        outer.chain(std::iter::once((self.inner, self.steps)).filter(|&(dim, _)| dim != 1))
    }

    /// Length of the second innermost axis if all views are adjacent in memory along it.
    pub fn transposed(&self) -> Option<usize> {
        self.dims.last().copied().filter(|_| self.strides.last() == Some(&[1; N]))
    }

    /// Calls `f(range, positions)` for the runs that elements `start..start + len` fall into: `range` counts from
    /// `start`, `positions` are where each view's run begins.
    #[inline(always)]
    pub fn runs(&self, start: usize, len: usize, mut f: impl FnMut(std::ops::Range<usize>, [usize; N])) {
        let mut row = start / self.inner;
        let mut column = start % self.inner;
        let mut index: Dims = SmallVec::from_elem(0, self.dims.len());
        let mut at = self.offsets;
        for axis in (0..self.dims.len()).rev() {
            index[axis] = row % self.dims[axis];
            row /= self.dims[axis];
            for (at, stride) in at.iter_mut().zip(self.strides[axis]) {
                *at += index[axis] * stride;
            }
        }
        let mut done = 0;
        while done < len {
            let n = (self.inner - column).min(len - done);
            f(done..done + n, std::array::from_fn(|k| at[k] + column * self.steps[k]));
            done += n;
            column = 0;
            for axis in (0..self.dims.len()).rev() {
                index[axis] += 1;
                let back = if index[axis] < self.dims[axis] { 0 } else { self.dims[axis] };
                for (at, stride) in at.iter_mut().zip(self.strides[axis]) {
                    *at = *at + stride - back * stride;
                }
                if back == 0 {
                    break;
                }
                index[axis] = 0;
            }
        }
    }
}
