//! Elements and rows picked by ids, and rows added to where ids say.

use crate::cpu::{elementwise, parallel};
use crate::{DType, Device, Dims, Error, Result, Tensor, cuda, with_element, with_float};

impl Tensor {
    /// Slices along an axis, picked by ids: the result has the dimensions of `ids` in place of that axis.
    ///
    /// `ids` is u32, i32 or i64, of any dimensions; this tensor is of any type. With axis 0 it is an embedding lookup.
    ///
    /// # Errors
    /// An id outside `0..dims[axis]` is named. On a GPU this check waits for the device, here and in the other operations
    /// with ids.
    pub fn index_select(&self, axis: usize, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = "index_select";
        self.layout().axis(OP, axis)?;
        let n = self.dims()[axis];
        ids.expect_ids(OP)?;
        let mut dims = Dims::from_slice(&self.dims()[..axis]);
        dims.extend_from_slice(ids.dims());
        dims.extend_from_slice(&self.dims()[axis + 1..]);
        let inner: usize = self.dims()[axis + 1..].iter().product();
        let x = self.contiguous()?;
        let mut out = Tensor::empty(&dims, self.dtype(), &self.device())?;
        if let Device::Cuda(gpu) = self.device() {
            let ids = cuda::index::ids(gpu, OP, ids, n)?;
            cuda::index::select(gpu, &x, &ids, [n, inner], &mut out)?;
            return Ok(out);
        }
        let index = ids.ids(OP, n)?;
        with_element!(self.dtype(), T => {
            let x = x.as_slice::<T>()?;
            parallel::rows(out.as_mut_slice::<T>()?, inner, |row, out| {
                let (outer, i) = (row / index.len(), row % index.len());
                out.copy_from_slice(&x[(outer * n + index[i]) * inner..][..inner]);
            });
        });
        Ok(out)
    }

    /// Elements along the last axis, picked row by row: `out[.., j] = self[.., ids[.., j]]`.
    ///
    /// `ids` is u32, i32 or i64 and has this tensor's dimensions but for the last; this tensor is of any type.
    ///
    /// # Errors
    /// An id outside the last axis is named.
    pub fn gather(&self, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = "gather";
        let same = |a: &[usize], b: &[usize]| {
            a.len() == b.len() && !a.is_empty() && a[..a.len() - 1] == b[..b.len() - 1]
        };
        if !same(self.dims(), ids.dims()) {
            let message = format!("dims {:?} by ids of dims {:?}", self.dims(), ids.dims());
            return Err(Error::shape(OP, message));
        }
        let (n, k) = (self.last_dim(), ids.last_dim());
        ids.expect_ids(OP)?;
        let x = self.contiguous()?;
        let mut out = Tensor::empty(ids.dims(), self.dtype(), &self.device())?;
        if let Device::Cuda(gpu) = self.device() {
            let ids = cuda::index::ids(gpu, OP, ids, n)?;
            cuda::index::gather(gpu, &x, &ids, [n, k], &mut out)?;
            return Ok(out);
        }
        let index = ids.ids(OP, n)?;
        with_element!(self.dtype(), T => {
            let x = x.as_slice::<T>()?;
            parallel::rows(out.as_mut_slice::<T>()?, k, |row, out| {
                let x = &x[row * n..][..n];
                for (out, &id) in out.iter_mut().zip(&index[row * k..]) {
                    *out = x[id];
                }
            });
        });
        Ok(out)
    }

    /// Adds rows in place where ids say: `self[ids[i]] += rows[i]`, for one i after the other where ids repeat.
    ///
    /// This tensor has dimensions `[n, ..]`, `ids` (u32, i32 or i64) any, and `rows` those of `ids` followed by this
    /// tensor's after the first. f32 or f64 (f32 or bf16 on a GPU). It is the gradient of [`Tensor::index_select`] along axis 0.
    ///
    /// # Errors
    /// If an id is outside `0..n`, or this tensor is not contiguous or its memory is shared.
    pub fn scatter_add(&mut self, ids: &Tensor, rows: &Tensor) -> Result<()> {
        const OP: &str = "scatter_add";
        self.layout().axis(OP, 0)?;
        self.same_dtype(OP, rows)?;
        let mut dims = Dims::from_slice(ids.dims());
        dims.extend_from_slice(&self.dims()[1..]);
        if rows.dims() != dims.as_slice() {
            let message = format!(
                "rows of dims {:?} by ids of dims {:?} into dims {:?}",
                rows.dims(),
                ids.dims(),
                self.dims()
            );
            return Err(Error::shape(OP, message));
        }
        let inner: usize = self.dims()[1..].iter().product();
        ids.expect_ids(OP)?;
        if let Device::Cuda(gpu) = self.device() {
            let ids = cuda::index::ids(gpu, OP, ids, self.dims()[0])?;
            return cuda::index::scatter_add(gpu, self, &ids, &rows.contiguous()?, inner);
        }
        // Sorted by destination, and by source within one: each task then owns its destinations.
        let mut order: Vec<(usize, usize)> =
            ids.ids(OP, self.dims()[0])?.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        order.sort_unstable();
        let rows = rows.contiguous()?;
        with_float!(OP, self.dtype(), T => {
            let rows = rows.as_slice::<T>()?;
            let per_task = (parallel::CHUNK / inner.max(1)).max(1);
            parallel::chunks(self.writable::<T>(OP)?, per_task * inner, |start, to| {
                let base = start / inner;
                let from = order.partition_point(|&(id, _)| id < base);
                let count = order[from..].partition_point(|&(id, _)| id < base + to.len() / inner);
                for &(id, i) in &order[from..from + count] {
                    let to = &mut to[(id - base) * inner..][..inner];
                    for (to, x) in to.iter_mut().zip(&rows[i * inner..]) {
                        *to += *x;
                    }
                }
            });
            Ok(())
        })
    }

    fn expect_ids(&self, op: &'static str) -> Result<()> {
        match self.dtype() {
            DType::U32 | DType::I32 | DType::I64 => Ok(()),
            other => Err(Error::dtype(op, "ids of type u32, i32 or i64", other)),
        }
    }

    /// The ids in row-major order, each checked to be below `bound`.
    fn ids(&self, op: &'static str, bound: usize) -> Result<Vec<usize>> {
        let mut wide = vec![0i64; self.numel()];
        macro_rules! read {
            ($t:ty) => {
                elementwise::unary((self.as_strided::<$t>()?, self.layout()), &mut wide, |id: $t| {
                    i64::from(id)
                })
            };
        }
        match self.dtype() {
            DType::U32 => read!(u32),
            DType::I32 => read!(i32),
            _ => read!(i64),
        }
        let check = |(position, id): (usize, i64)| match usize::try_from(id) {
            Ok(id) if id < bound => Ok(id),
            _ => {
                let message = format!("id {id} at position {position} is outside 0..{bound}");
                Err(Error::argument(op, message))
            }
        };
        wide.into_iter().enumerate().map(check).collect()
    }
}
