//! Copies from a strided view into row-major memory.

use crate::{Element, Layout};

/// Writes the elements that `layout` selects from `from` to `to`, row-major.
pub(crate) fn strided<T: Element>(from: &[T], layout: &Layout, to: &mut [T]) {
    if layout.is_contiguous() {
        to.copy_from_slice(&from[layout.offset()..][..to.len()]);
        return;
    }
    let inner = layout.dims().last().copied().unwrap_or(1);
    if inner == 0 {
        return;
    }
    let step = layout.strides().last().copied().unwrap_or(1);
    let mut rows = RowOffsets::new(layout);
    for to in to.chunks_exact_mut(inner) {
        let start = rows.next_offset();
        if step == 1 {
            to.copy_from_slice(&from[start..][..inner]);
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[start + i * step];
            }
        }
    }
}

/// Walks the positions of a view's rows (its last axis) in row-major order.
pub(crate) struct RowOffsets<'a> {
    dims: &'a [usize],
    strides: &'a [usize],
    index: crate::Dims,
    offset: usize,
}

impl<'a> RowOffsets<'a> {
    pub fn new(layout: &'a Layout) -> Self {
        let lead = layout.dims().len().saturating_sub(1);
        RowOffsets {
            dims: &layout.dims()[..lead],
            strides: &layout.strides()[..lead],
            index: smallvec::SmallVec::from_elem(0, lead),
            offset: layout.offset(),
        }
    }

    /// The position of the next row's first element.
    pub fn next_offset(&mut self) -> usize {
        let now = self.offset;
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            self.offset += self.strides[axis];
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.offset -= self.strides[axis] * self.dims[axis];
            self.index[axis] = 0;
        }
        now
    }
}
