//! How a tensor's elements lie in memory: dimensions, strides and an offset, all in elements.

use crate::{Error, Result};
use smallvec::SmallVec;

/// Dimensions or strides, inline up to rank six.
pub type Dims = SmallVec<[usize; 6]>;

/// Dimensions, strides and offset of a view, in elements. Stride 0 repeats (broadcasting).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dims: Dims,
    strides: Dims,
    offset: usize,
}

impl Layout {
    /// Row-major layout of `dims` at offset 0.
    pub fn contiguous(dims: &[usize]) -> Self {
        let mut strides: Dims = SmallVec::from_elem(0, dims.len());
        let mut step = 1;
        for (stride, &dim) in strides.iter_mut().zip(dims).rev() {
            *stride = step;
            // Wraps only where another dimension is 0, and the strides mean nothing.
            step = step.wrapping_mul(dim);
        }
        Layout { dims: dims.into(), strides, offset: 0 }
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Position of the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        numel(&self.dims).unwrap_or(0)
    }

    /// Whether the elements are adjacent in row-major order.
    pub fn is_contiguous(&self) -> bool {
        if self.numel() == 0 {
            return true;
        }
        let mut step = 1;
        for (&dim, &stride) in self.dims.iter().zip(&self.strides).rev() {
            if dim != 1 && stride != step {
                return false;
            }
            step *= dim;
        }
        true
    }

    /// One past the largest element position used; 0 when empty.
    pub fn end(&self) -> usize {
        if self.numel() == 0 {
            return 0;
        }
        self.offset + 1 + self.dims.iter().zip(&self.strides).map(|(d, s)| (d - 1) * s).sum::<usize>()
    }

    pub(crate) fn axis(&self, op: &'static str, axis: usize) -> Result<()> {
        if axis < self.dims.len() {
            return Ok(());
        }
        Err(Error::shape(op, format!("axis {axis} of a tensor with dims {:?}", self.dims)))
    }

    /// Swaps two axes.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        self.axis("transpose", a)?;
        self.axis("transpose", b)?;
        let mut out = self.clone();
        out.dims.swap(a, b);
        out.strides.swap(a, b);
        Ok(out)
    }

    /// Reorders the axes: axis i of the result is axis `order[i]` of this.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut seen: SmallVec<[bool; 6]> = SmallVec::from_elem(false, self.dims.len());
        for &axis in order {
            match seen.get_mut(axis) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(Error::shape("permute", format!("order {order:?} of dims {:?}", self.dims))),
            }
        }
        if order.len() != self.dims.len() {
            return Err(Error::shape("permute", format!("order {order:?} of dims {:?}", self.dims)));
        }
        Ok(Layout {
            dims: order.iter().map(|&a| self.dims[a]).collect(),
            strides: order.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        })
    }

    /// Elements `start..start + len` of an axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        self.axis("narrow", axis)?;
        if start.checked_add(len).is_none_or(|end| end > self.dims[axis]) {
            let message = format!("{start}..{start}+{len} of axis {axis} of dims {:?}", self.dims);
            return Err(Error::shape("narrow", message));
        }
        let mut out = self.clone();
        out.dims[axis] = len;
        // An empty view stays at an offset within the memory.
        if out.numel() > 0 {
            out.offset += start * self.strides[axis];
        }
        Ok(out)
    }

    /// Repeats axes of length 1, and adds leading ones, as NumPy does.
    pub fn broadcast_to(&self, dims: &[usize]) -> Result<Self> {
        let fail =
            || Error::shape("broadcast_to", format!("dims {:?} do not broadcast to {dims:?}", self.dims));
        let lead = dims.len().checked_sub(self.dims.len()).ok_or_else(fail)?;
        numel(dims).ok_or_else(fail)?;
        let mut strides: Dims = SmallVec::from_elem(0, dims.len());
        for (i, (&from, &stride)) in self.dims.iter().zip(&self.strides).enumerate() {
            let to = dims[lead + i];
            if from == to {
                strides[lead + i] = stride;
            } else if from != 1 {
                return Err(fail());
            }
        }
        Ok(Layout { dims: dims.into(), strides, offset: self.offset })
    }

    /// Removes an axis of length 1.
    pub fn squeeze(&self, axis: usize) -> Result<Self> {
        self.axis("squeeze", axis)?;
        if self.dims[axis] != 1 {
            return Err(Error::shape("squeeze", format!("axis {axis} of dims {:?} is not 1", self.dims)));
        }
        let mut out = self.clone();
        out.dims.remove(axis);
        out.strides.remove(axis);
        Ok(out)
    }

    /// Inserts an axis of length 1.
    pub fn unsqueeze(&self, axis: usize) -> Result<Self> {
        if axis > self.dims.len() {
            return Err(Error::shape("unsqueeze", format!("axis {axis} of dims {:?}", self.dims)));
        }
        let mut out = self.clone();
        out.dims.insert(axis, 1);
        out.strides.insert(axis, 1);
        Ok(out)
    }

    /// The same elements in the same order under other dimensions, if strides can say so.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        if numel(dims) != Some(self.numel()) {
            return Err(Error::shape("reshape", format!("dims {:?} to {dims:?}", self.dims)));
        }
        if self.is_contiguous() {
            return Ok(Layout { offset: self.offset, ..Layout::contiguous(dims) });
        }
        // Old axes are merged into runs of one uniform stride; each run is then split anew.
        let old: SmallVec<[(usize, usize); 6]> =
            (self.dims.iter().copied().zip(self.strides.iter().copied()))
                .filter(|&(dim, _)| dim != 1)
                .collect();
        let mut strides: Dims = SmallVec::from_elem(1, dims.len());
        let (mut from, mut to) = (0, 0);
        while from < old.len() {
            let start = from;
            let (mut have, first) = (old[from].0, to);
            let mut want = 1;
            from += 1;
            loop {
                if want < have {
                    want *= dims[to];
                    to += 1;
                } else if want > have {
                    have *= old[from].0;
                    from += 1;
                } else {
                    break;
                }
            }
            if (start..from - 1).any(|i| old[i].1 != old[i + 1].1 * old[i + 1].0) {
                let (dims, strides) = (self.dims.to_vec(), self.strides.to_vec());
                return Err(Error::NotContiguous { op: "reshape", dims, strides });
            }
            let mut step = old[from - 1].1;
            for i in (first..to).rev() {
                strides[i] = step;
                step *= dims[i];
            }
        }
        Ok(Layout { dims: dims.into(), strides, offset: self.offset })
    }
}

/// Number of elements of `dims`, if the product fits a usize.
pub(crate) fn numel(dims: &[usize]) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1, |n: usize, &d| n.checked_mul(d))
}

/// Common dimensions of two operands under NumPy's broadcasting.
pub fn broadcast_dims(op: &'static str, a: &[usize], b: &[usize]) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |i| d[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::shape(op, format!("dims {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}
