//! Copies between host and device: uploads through pinned memory, which return before the copy is done, and reads, which
//! wait or come later.

use super::Cuda;
use crate::{Element, Error, Result, Tensor};
use cudarc::driver::{result as driver, sys};
use std::sync::atomic::Ordering;

/// Bytes of one pinned buffer of uploads, and how many there are.
const SLOT: usize = 4 << 20;
const SLOTS: usize = 4;

/// Page-locked host memory, which the device copies from or to on its own.
struct Pinned {
    gpu: Cuda,
    ptr: *mut u8,
    len: usize,
    /// Marks the end of the copy that used it last.
    event: sys::CUevent,
}

// SAFETY: plain memory and a driver's handle, used by one owner at a time.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(gpu: Cuda, len: usize) -> Result<Self> {
        // SAFETY: the context is current; the memory is freed once, in `drop`.
        let ptr = unsafe { driver::malloc_host(len, 0) }.map_err(|e| gpu.failed("pinning host memory", e))?;
        let event = driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|e| gpu.failed("cuEventCreate", e))?;
        Ok(Pinned { gpu, ptr: ptr.cast(), len, event })
    }

    fn record(&self) -> Result<()> {
        // SAFETY: event and stream are alive.
        unsafe { driver::event::record(self.event, self.gpu.stream()) }
            .map_err(|e| self.gpu.failed("cuEventRecord", e))
    }

    /// Waits until the copy is done.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        if unsafe { driver::event::query(self.event) }.is_ok() {
            return Ok(());
        }
        self.gpu.0.waits.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { driver::event::synchronize(self.event) }
            .map_err(|e| self.gpu.failed("waiting for a copy", e))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Another thread may drop it than worked on the device.
        let _ = self.gpu.bind();
        // SAFETY: made in `new`, freed once, when no copy uses the memory. Errors at exit have nobody to go to.
        unsafe {
            let _ = driver::event::synchronize(self.event);
            let _ = driver::event::destroy(self.event);
            let _ = driver::free_host(self.ptr.cast());
        }
    }
}

/// Pinned buffers: a ring for uploads, and those of finished reads.
#[derive(Default)]
pub(super) struct Staging {
    ring: Vec<Pinned>,
    /// The buffer of the ring that uploads fill, and how much of it they did.
    current: usize,
    filled: usize,
    reads: Vec<Pinned>,
}

impl Staging {
    /// A part of the ring for `len` bytes: its buffer, and where it begins there. Small uploads share a buffer, so that
    /// many can be on their way before one must be waited for.
    fn place(&mut self, gpu: Cuda, len: usize) -> Result<(&Pinned, usize)> {
        if self.ring.is_empty() {
            self.ring.push(Pinned::new(gpu, SLOT)?);
        } else if self.filled + len > SLOT {
            self.current = (self.current + 1) % SLOTS;
            self.filled = 0;
            match self.ring.get(self.current) {
                Some(next) => next.wait()?,
                None => self.ring.push(Pinned::new(gpu, SLOT)?),
            }
        }
        let start = self.filled;
        self.filled += len.next_multiple_of(64);
        Ok((&self.ring[self.current], start))
    }
}

/// A read of a tensor that was asked for and may not have arrived.
pub struct Pending {
    gpu: Cuda,
    pinned: Option<Pinned>,
    len: usize,
}

impl Pending {
    /// Whether the elements have arrived, so that [`Pending::get`] does not wait.
    pub fn has_arrived(&self) -> Result<bool> {
        self.gpu.bind()?;
        let Some(pinned) = &self.pinned else { return Ok(true) };
        // SAFETY: the event is alive.
        match unsafe { driver::event::query(pinned.event) } {
            Ok(()) => Ok(true),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(e) => Err(self.gpu.failed("asking for a copy", e)),
        }
    }

    /// The elements, waiting for them if they have not arrived.
    ///
    /// # Errors
    /// If the device failed, or the length is no multiple of `T`'s size.
    pub fn get<T: Element>(mut self) -> Result<Vec<T>> {
        self.gpu.bind()?;
        let Some(pinned) = self.pinned.take() else { return Ok(Vec::new()) };
        pinned.wait()?;
        // SAFETY: the copy of `len` bytes into the buffer is done.
        let bytes = unsafe { std::slice::from_raw_parts(pinned.ptr, self.len) };
        if !bytes.len().is_multiple_of(size_of::<T>()) {
            let message = format!("{} bytes are no multiple of {}", bytes.len(), T::DTYPE);
            return Err(Error::argument("read_later", message));
        }
        let mut out = vec![T::from_f64(0.0); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(bytes);
        self.gpu.0.staging.lock().unwrap_or_else(|e| e.into_inner()).reads.push(pinned);
        Ok(out)
    }
}

impl Cuda {
    /// Copies host bytes to device memory. Returns when they are in pinned memory.
    pub(crate) fn upload(self, bytes: &[u8], to: u64) -> Result<()> {
        self.bind()?;
        let mut staging = self.0.staging.lock().unwrap_or_else(|e| e.into_inner());
        for (i, part) in bytes.chunks(SLOT).enumerate() {
            let (buffer, start) = staging.place(self, part.len())?;
            // SAFETY: the buffer holds `part.len()` bytes from `start` that no copy uses now; the destination holds
            // `bytes.len()`.
            unsafe {
                let at = buffer.ptr.add(start);
                std::ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
                let from = std::slice::from_raw_parts(at, part.len());
                driver::memcpy_htod_async(to + (i * SLOT) as u64, from, self.stream())
            }
            .map_err(|e| self.failed("copying to the GPU", e))?;
            buffer.record()?;
        }
        Ok(())
    }

    /// Copies device memory to the host, and waits for it.
    pub(crate) fn download(self, from: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the source holds as many bytes, and the slice is borrowed until the copy is done.
        unsafe { driver::memcpy_dtoh_async(bytes, from, self.stream()) }
            .map_err(|e| self.failed("copying from the GPU", e))?;
        self.synchronize()
    }

    /// Copies device memory within the device.
    pub(crate) fn copy(self, from: u64, to: u64, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both places hold `len` bytes.
        unsafe { driver::memcpy_dtod_async(to, from, len, self.stream()) }
            .map_err(|e| self.failed("copying on the GPU", e))
    }

    /// Sets every byte.
    pub(crate) fn set_bytes(self, to: u64, value: u8, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the place holds `len` bytes.
        unsafe { driver::memset_d8_async(to, value, len, self.stream()) }
            .map_err(|e| self.failed("cuMemsetD8", e))
    }

    /// Asks for the elements of a contiguous tensor as they are after the work given so far, and does not wait.
    pub fn read_later(self, tensor: &Tensor) -> Result<Pending> {
        const OP: &str = "read_later";
        if !tensor.is_contiguous() {
            return Err(tensor.not_contiguous(OP));
        }
        let len = tensor.numel() * tensor.dtype().size();
        let from = tensor.device_address(self, OP)?;
        self.bind()?;
        if len == 0 {
            return Ok(Pending { gpu: self, pinned: None, len });
        }
        let reused = {
            let reads = &mut self.0.staging.lock().unwrap_or_else(|e| e.into_inner()).reads;
            reads.iter().position(|pinned| pinned.len >= len).map(|i| reads.swap_remove(i))
        };
        let pinned = reused.map_or_else(|| Pinned::new(self, len.next_power_of_two().max(4096)), Ok)?;
        // SAFETY: the buffer holds `len` bytes that no other copy uses, and stays until the copy is done.
        unsafe {
            let to = std::slice::from_raw_parts_mut(pinned.ptr, len);
            driver::memcpy_dtoh_async(to, from, self.stream())
        }
        .map_err(|e| self.failed("copying from the GPU", e))?;
        pinned.record()?;
        Ok(Pending { gpu: self, pinned: Some(pinned), len })
    }
}
