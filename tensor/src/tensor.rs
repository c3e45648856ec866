//! The n-dimensional array.

use crate::cuda::{Cuda, CudaBuffer};
use crate::layout::numel;
use crate::storage::{CpuBuffer, Storage};
use crate::{DType, Device, Element, Error, Layout, Result, with_element};
use std::fmt;
use std::sync::Arc;

/// A part of an allocation that no other region overlaps. Views share a region; whoever is alone on it may write.
struct Region {
    storage: Arc<Storage>,
    /// First byte within the storage.
    start: usize,
    /// Length in bytes.
    len: usize,
}

/// An n-dimensional array on a device.
///
/// Cloning and taking views is cheap and shares memory. Writing goes through `&mut self` and fails with
/// [`Error::Shared`] while another tensor can see the same memory, so values never change behind a reader's back.
#[derive(Clone)]
pub struct Tensor {
    region: Arc<Region>,
    layout: Layout,
    dtype: DType,
}

impl Tensor {
    /// A tensor with unspecified (but initialised) elements, for an operation that writes them all.
    pub fn empty(dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let bytes = numel(dims).and_then(|n| n.checked_mul(dtype.size()));
        let bytes = bytes.ok_or_else(|| Error::shape("empty", format!("dims {dims:?} overflow")))?;
        let storage = match device {
            Device::Cpu => Storage::Cpu(CpuBuffer::new(bytes)?),
            Device::Cuda(gpu) => {
                Storage::Cuda(CudaBuffer::new(*gpu, bytes, &format_args!("{dtype} {dims:?}"))?)
            }
        };
        Ok(Self::from_storage(storage, dims, dtype))
    }

    /// `storage` must hold exactly the elements of `dims`.
    pub(crate) fn from_storage(storage: Storage, dims: &[usize], dtype: DType) -> Self {
        let len = storage.len();
        debug_assert_eq!(Some(len), numel(dims).map(|n| n * dtype.size()));
        let region = Arc::new(Region { storage: Arc::new(storage), start: 0, len });
        Tensor { region, layout: Layout::contiguous(dims), dtype }
    }

    /// A tensor filled with `value`, rounded to `dtype`.
    pub fn full(value: f64, dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let mut out = Self::empty(dims, dtype, device)?;
        out.fill(value)?;
        Ok(out)
    }

    /// A tensor of zeros.
    pub fn zeros(dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        Self::full(0.0, dims, dtype, device)
    }

    /// Copies a row-major slice.
    pub fn from_slice<T: Element>(data: &[T], dims: &[usize], device: &Device) -> Result<Self> {
        if numel(dims) != Some(data.len()) {
            return Err(Error::shape("from_slice", format!("{} elements for dims {dims:?}", data.len())));
        }
        let mut out = Self::empty(dims, T::DTYPE, device)?;
        out.copy_from_slice(data)?;
        Ok(out)
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T, device: &Device) -> Result<Self> {
        Self::from_slice(&[value], &[], device)
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// Layout of the view.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the memory lives.
    pub fn device(&self) -> Device {
        self.region.storage.device()
    }

    /// Whether elements are adjacent in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// Length of the last axis; 1 for a scalar. Row-wise operations work along it.
    pub fn last_dim(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The dimensions if there are exactly `N`, else a shape error of `op`.
    pub fn dims_n<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        self.dims()
            .try_into()
            .map_err(|_| Error::shape(op, format!("expected {N} dimensions, got dims {:?}", self.dims())))
    }

    fn expect<T: Element>(&self, op: &'static str) -> Result<()> {
        if T::DTYPE == self.dtype {
            return Ok(());
        }
        Err(Error::dtype(op, T::DTYPE.name(), self.dtype))
    }

    pub(crate) fn not_contiguous(&self, op: &'static str) -> Error {
        Error::NotContiguous { op, dims: self.dims().to_vec(), strides: self.strides().to_vec() }
    }

    /// The elements of a contiguous tensor, row-major.
    ///
    /// # Errors
    /// If `T` is not the element type, or the view is not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect::<T>("as_slice")?;
        if !self.is_contiguous() {
            return Err(self.not_contiguous("as_slice"));
        }
        let all = self.region_slice::<T>("as_slice")?;
        Ok(&all[self.layout.offset()..][..self.numel()])
    }

    /// Every element of the region, whatever the view; index it with the layout's offset and strides.
    ///
    /// # Errors
    /// If `T` is not the element type.
    pub fn as_strided<T: Element>(&self) -> Result<&[T]> {
        self.expect::<T>("as_strided")?;
        self.region_slice("as_strided")
    }

    fn region_slice<T: Element>(&self, op: &'static str) -> Result<&[T]> {
        let buffer = self.region.storage.cpu(op)?;
        // SAFETY: the region lies within the buffer and starts at a multiple of the element size (all regions of a
        // buffer are cut at its elements); every bit pattern is a valid `T`; nobody writes while this tensor is
        // borrowed, since writing needs the only reference to the region.
        unsafe {
            let first = buffer.ptr().add(self.region.start).cast::<T>();
            Ok(std::slice::from_raw_parts(first, self.region.len / size_of::<T>()))
        }
    }

    /// Where the first element lies in the memory of `gpu`.
    pub(crate) fn device_address(&self, gpu: Cuda, op: &'static str) -> Result<u64> {
        match &*self.region.storage {
            Storage::Cuda(buffer) if buffer.gpu() == gpu => {
                let first = self.region.start + self.layout.offset() * self.dtype.size();
                Ok(buffer.address() + first as u64)
            }
            other => {
                let message =
                    format!("{op} got a tensor on {}; copy it with to_device first", other.device());
                Err(Error::device(gpu.to_string(), message))
            }
        }
    }

    /// As [`Tensor::device_address`], of a contiguous tensor that nobody shares, for writing.
    pub(crate) fn device_address_mut(&mut self, gpu: Cuda, op: &'static str) -> Result<u64> {
        if !self.is_contiguous() {
            return Err(self.not_contiguous(op));
        }
        if !self.is_unique() {
            return Err(Error::Shared { op });
        }
        self.device_address(gpu, op)
    }

    /// The elements of a contiguous tensor, for writing.
    ///
    /// # Errors
    /// If `T` is not the element type, the view is not contiguous, or another tensor shares the memory.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.writable("as_mut_slice")
    }

    /// [`Tensor::as_mut_slice`] for `op`, which its errors name.
    pub(crate) fn writable<T: Element>(&mut self, op: &'static str) -> Result<&mut [T]> {
        self.expect::<T>(op)?;
        if !self.is_contiguous() {
            return Err(self.not_contiguous(op));
        }
        let (offset, numel) = (self.layout.offset(), self.numel());
        let region = Arc::get_mut(&mut self.region).ok_or(Error::Shared { op })?;
        let buffer = region.storage.cpu(op)?;
        if !buffer.is_writable() {
            return Err(Error::Shared { op });
        }
        // SAFETY: as in `region_slice`, and this is the only reference to a region that no other overlaps.
        let all = unsafe {
            let first = buffer.ptr().add(region.start).cast::<T>();
            std::slice::from_raw_parts_mut(first, region.len / size_of::<T>())
        };
        Ok(&mut all[offset..][..numel])
    }

    /// The elements in row-major order, whatever the strides. Waits for a GPU that has them.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect::<T>("to_vec")?;
        Ok(self.to_device(&Device::Cpu)?.contiguous()?.as_slice::<T>()?.to_vec())
    }

    /// Overwrites the elements of a contiguous tensor that nobody shares with a row-major slice. To a GPU the copy is
    /// asynchronous, from pinned memory: `data` may change as soon as the call returns.
    pub fn copy_from_slice<T: Element>(&mut self, data: &[T]) -> Result<()> {
        const OP: &str = "copy_from_slice";
        self.expect::<T>(OP)?;
        if data.len() != self.numel() {
            let message = format!("{} elements for dims {:?}", data.len(), self.dims());
            return Err(Error::shape(OP, message));
        }
        match self.device() {
            Device::Cpu => self.writable(OP)?.copy_from_slice(data),
            Device::Cuda(gpu) => {
                let to = self.device_address_mut(gpu, OP)?;
                gpu.upload(bytemuck::cast_slice(data), to)?;
            }
        }
        Ok(())
    }

    /// The same elements on a device: this tensor if it is there, else a contiguous copy. Waits for the GPU it comes from.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let from = self.device();
        if from == *device {
            return Ok(self.clone());
        }
        let source = self.contiguous()?;
        let mut out = Self::empty(self.dims(), self.dtype, device)?;
        with_element!(self.dtype, T => match from {
            Device::Cuda(gpu) if *device == Device::Cpu => {
                let address = source.device_address(gpu, "to_device")?;
                gpu.download(address, bytemuck::cast_slice_mut(out.as_mut_slice::<T>()?))?;
            }
            Device::Cuda(_) => out = source.to_device(&Device::Cpu)?.to_device(device)?,
            Device::Cpu => out.copy_from_slice(source.as_slice::<T>()?)?,
        });
        Ok(out)
    }

    /// The single element of a tensor with one.
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.numel() != 1 {
            return Err(Error::shape(
                "item",
                format!("dims {:?} hold more or less than one element", self.dims()),
            ));
        }
        Ok(self.to_vec::<T>()?[0])
    }

    /// Whether no other tensor shares the memory, so that it can be written in place.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.region) == 1 && self.region.storage.is_writable()
    }

    fn view(&self, layout: Layout) -> Self {
        Tensor { region: Arc::clone(&self.region), layout, dtype: self.dtype }
    }

    /// A view with two axes swapped.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        Ok(self.view(self.layout.transpose(a, b)?))
    }

    /// A view with axis i taken from axis `order[i]`.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        Ok(self.view(self.layout.permute(order)?))
    }

    /// A view of elements `start..start + len` along an axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        Ok(self.view(self.layout.narrow(axis, start, len)?))
    }

    /// A view of one index along an axis, which disappears.
    pub fn select(&self, axis: usize, index: usize) -> Result<Self> {
        Ok(self.view(self.layout.narrow(axis, index, 1)?.squeeze(axis)?))
    }

    /// A view that repeats axes of length 1 and adds leading axes.
    pub fn broadcast_to(&self, dims: &[usize]) -> Result<Self> {
        Ok(self.view(self.layout.broadcast_to(dims)?))
    }

    /// A view without an axis of length 1.
    pub fn squeeze(&self, axis: usize) -> Result<Self> {
        Ok(self.view(self.layout.squeeze(axis)?))
    }

    /// A view with an axis of length 1 inserted.
    pub fn unsqueeze(&self, axis: usize) -> Result<Self> {
        Ok(self.view(self.layout.unsqueeze(axis)?))
    }

    /// The same elements under other dimensions: a view where strides allow it, else a copy.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        match self.layout.reshape(dims) {
            Ok(layout) => Ok(self.view(layout)),
            Err(Error::NotContiguous { .. }) => self.contiguous()?.reshape(dims),
            Err(error) => Err(error),
        }
    }

    /// This tensor if it is contiguous, else a contiguous copy.
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        self.copy()
    }

    /// A contiguous copy with memory of its own.
    pub fn copy(&self) -> Result<Self> {
        let mut out = Self::empty(self.dims(), self.dtype, &self.device())?;
        out.copy_from(self)?;
        Ok(out)
    }

    /// Overwrites the elements with those of a tensor of the same dimensions and type.
    pub fn copy_from(&mut self, source: &Tensor) -> Result<()> {
        if self.dims() != source.dims() {
            let message = format!("dims {:?} from {:?}", self.dims(), source.dims());
            return Err(Error::shape("copy_from", message));
        }
        self.same_dtype("copy_from", source)?;
        if let Device::Cuda(gpu) = self.device() {
            return crate::cuda::copy::strided(gpu, source, self);
        }
        with_element!(self.dtype, T => {
            let from = source.as_strided::<T>()?;
            crate::cpu::copy::strided(from, &source.layout, self.writable::<T>("copy_from")?);
        });
        Ok(())
    }

    /// The elements converted to another type: floats round to nearest, integers truncate and saturate.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let from = self.contiguous()?;
        if let Device::Cuda(gpu) = self.device() {
            return crate::cuda::convert::convert(gpu, &from, dtype);
        }
        let mut out = Self::empty(self.dims(), dtype, &self.device())?;
        with_element!(self.dtype, S => with_element!(dtype, D => {
            crate::cpu::convert::convert(from.as_slice::<S>()?, out.as_mut_slice::<D>()?);
        }));
        Ok(out)
    }

    /// Whether the elements begin where those of `previous` end, in one allocation: both contiguous, and neighbouring
    /// parts of a [`Tensor::partition`]. One kernel can then work on both.
    pub fn follows(&self, previous: &Tensor) -> bool {
        let first = |x: &Tensor| x.region.start + x.layout.offset() * x.dtype.size();
        Arc::ptr_eq(&self.region.storage, &previous.region.storage)
            && self.is_contiguous()
            && previous.is_contiguous()
            && first(previous) + previous.numel() * previous.dtype.size() == first(self)
    }

    /// Cuts the memory of a contiguous tensor that nobody shares into consecutive tensors of the given dimensions.
    /// They lie in one allocation, in order, and each can be written while the others are read.
    ///
    /// # Errors
    /// If the memory is shared or not contiguous, or the dimensions do not fill it exactly.
    pub fn partition(self, parts: &[&[usize]]) -> Result<Vec<Tensor>> {
        let total = parts.iter().try_fold(0usize, |n, dims| n.checked_add(numel(dims)?));
        if total != Some(self.numel()) {
            let message = format!("parts {parts:?} do not fill a tensor with dims {:?}", self.dims());
            return Err(Error::shape("partition", message));
        }
        if !self.is_contiguous() {
            return Err(self.not_contiguous("partition"));
        }
        let size = self.dtype.size();
        let mut start = self.region.start + self.layout.offset() * size;
        let region = Arc::try_unwrap(self.region).map_err(|_| Error::Shared { op: "partition" })?;
        let mut out = Vec::with_capacity(parts.len());
        for dims in parts {
            let len = numel(dims).unwrap_or_default() * size;
            let region = Arc::new(Region { storage: Arc::clone(&region.storage), start, len });
            out.push(Tensor { region, layout: Layout::contiguous(dims), dtype: self.dtype });
            start += len;
        }
        Ok(out)
    }

    /// The inverse of [`Tensor::partition`]: consecutive parts of one allocation, all of which are given up, as one tensor.
    ///
    /// # Errors
    /// If the parts do not follow each other, are shared, or do not fill `dims`.
    pub fn join(parts: Vec<Tensor>, dims: &[usize]) -> Result<Tensor> {
        const OP: &str = "join";
        let Some(first) = parts.first() else {
            let message = format!("no parts for dims {dims:?}");
            return Err(Error::shape(OP, message));
        };
        let (dtype, start) = (first.dtype, first.region.start);
        let storage = Arc::clone(&first.region.storage);
        let mut end = start;
        for part in parts {
            let numel = part.numel();
            let region = Arc::try_unwrap(part.region).map_err(|_| Error::Shared { op: OP })?;
            let whole = part.layout.is_contiguous() && region.len == numel * dtype.size();
            let follows = Arc::ptr_eq(&region.storage, &storage) && region.start == end;
            if !(whole && follows && part.dtype == dtype) {
                return Err(Error::shape(OP, "the parts are not those of one tensor, in order"));
            }
            end += region.len;
        }
        if numel(dims).map(|n| n * dtype.size()) != Some(end - start) {
            return Err(Error::shape(OP, format!("{} bytes for dims {dims:?}", end - start)));
        }
        let region = Arc::new(Region { storage, start, len: end - start });
        Ok(Tensor { region, layout: Layout::contiguous(dims), dtype })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        write!(f, "Tensor({} {:?} on {}", self.dtype, self.dims(), self.device())?;
        let shown = self.reshape(&[self.numel()]).and_then(|flat| flat.narrow(0, 0, self.numel().min(SHOWN)));
        if let Ok(shown) = shown {
            f.write_str(" = [")?;
            with_element!(self.dtype, T => for (i, x) in shown.to_vec::<T>().unwrap_or_default().iter().enumerate() {
                write!(f, "{}{x:?}", if i == 0 { "" } else { ", " })?;
            });
            f.write_str(if self.numel() > SHOWN { ", …]" } else { "]" })?;
        }
        f.write_str(")")
    }
}
