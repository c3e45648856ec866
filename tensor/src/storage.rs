//! Memory of tensors: one enum arm a device, and the pool that reuses host buffers.

use crate::cuda::CudaBuffer;
use crate::{Device, Error, Result};
use std::alloc::{self, Layout as MemLayout};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// Alignment of host buffers: a cache line, and a full AVX-512 register.
const ALIGN: usize = 64;

/// Memory on one device.
pub(crate) enum Storage {
    Cpu(CpuBuffer),
    Cuda(CudaBuffer),
}

impl Storage {
    pub fn device(&self) -> Device {
        match self {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda(buffer) => Device::Cuda(buffer.gpu()),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Storage::Cpu(buffer) => buffer.len(),
            Storage::Cuda(buffer) => buffer.len(),
        }
    }

    pub fn is_writable(&self) -> bool {
        match self {
            Storage::Cpu(buffer) => buffer.is_writable(),
            Storage::Cuda(_) => true,
        }
    }

    /// The host's buffer, for `op`.
    pub fn cpu(&self, op: &'static str) -> Result<&CpuBuffer> {
        match self {
            Storage::Cpu(buffer) => Ok(buffer),
            Storage::Cuda(buffer) => {
                let message = format!("{op} needs a tensor in host memory; copy it with to_device first");
                Err(Error::device(buffer.gpu().to_string(), message))
            }
        }
    }
}

enum Owner {
    /// From the pool, to which it returns.
    Pool,
    /// A file's pages: read-only.
    Map(#[allow(dead_code, reason = "keeps the pages mapped")] Arc<memmap2::Mmap>),
}

/// Host memory of a tensor. Always initialised: fresh blocks are zeroed, recycled ones hold old values.
pub(crate) struct CpuBuffer {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

// SAFETY: the buffer owns its memory (or shares read-only pages); all access goes through `Tensor`, which hands
// out `&mut` only to a sole owner.
unsafe impl Send for CpuBuffer {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for CpuBuffer {}

impl CpuBuffer {
    /// A block of at least `len` bytes with unspecified but initialised content.
    pub fn new(len: usize) -> Result<Self> {
        let ptr = POOL.take(size_class(len))?;
        let mut buffer = CpuBuffer { ptr, len, owner: Owner::Pool };
        if is_poisoned() {
            buffer.bytes_mut().fill(0xff);
        }
        Ok(buffer)
    }

    /// `range` of a mapped file.
    pub fn mapped(map: &Arc<memmap2::Mmap>, range: std::ops::Range<usize>) -> Self {
        let bytes = &map[range];
        let ptr = NonNull::from(bytes).cast();
        CpuBuffer { ptr, len: bytes.len(), owner: Owner::Map(Arc::clone(map)) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    pub fn is_writable(&self) -> bool {
        matches!(self.owner, Owner::Pool)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `ptr` points to `len` initialised bytes that `&mut self` borrows alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if let Owner::Pool = self.owner {
            POOL.give(size_class(self.len), self.ptr);
        }
    }
}

/// Sizes are rounded up to an eighth of a power of two, so that a block is at most 12.5% too large.
fn size_class(len: usize) -> usize {
    let step = (len.max(512).next_power_of_two() >> 4).max(ALIGN);
    len.max(1).next_multiple_of(step)
}

static POISON: AtomicBool = AtomicBool::new(false);

/// Fills new tensors with 0xFF bytes (NaN in every float type), so that a test sees what an operation never wrote.
pub fn set_poison(on: bool) {
    POISON.store(on, Ordering::Relaxed);
}

pub(crate) fn is_poisoned() -> bool {
    POISON.load(Ordering::Relaxed)
}

/// What the host pool holds, in bytes, and how often it asked the system for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Bytes in live tensors.
    pub in_use: usize,
    /// Most bytes ever in live tensors.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub cached: usize,
    /// Blocks ever taken from the system; a steady training loop leaves it unchanged.
    pub system_allocations: usize,
}

/// The host pool's figures now.
pub fn pool_stats() -> PoolStats {
    PoolStats {
        in_use: POOL.in_use.load(Ordering::Relaxed),
        peak: POOL.peak.load(Ordering::Relaxed),
        cached: POOL.cached.load(Ordering::Relaxed),
        system_allocations: POOL.system_allocations.load(Ordering::Relaxed),
    }
}

/// Returns the blocks kept for reuse to the system.
pub fn trim_pool() {
    let blocks = std::mem::take(&mut *POOL.free.lock().unwrap_or_else(|e| e.into_inner()));
    for (class, list) in blocks {
        for Block(ptr) in list {
            POOL.cached.fetch_sub(class, Ordering::Relaxed);
            // SAFETY: the block came from `alloc_zeroed` with this very layout and nobody else holds it.
            unsafe { alloc::dealloc(ptr.as_ptr(), MemLayout::from_size_align_unchecked(class, ALIGN)) };
        }
    }
}

struct Block(NonNull<u8>);
// SAFETY: a free block is owned by the pool alone.
unsafe impl Send for Block {}

#[derive(Default)]
struct Pool {
    free: Mutex<HashMap<usize, Vec<Block>>>,
    in_use: AtomicUsize,
    peak: AtomicUsize,
    cached: AtomicUsize,
    system_allocations: AtomicUsize,
}

static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

impl Pool {
    fn take(&self, class: usize) -> Result<NonNull<u8>> {
        let used = self.in_use.fetch_add(class, Ordering::Relaxed) + class;
        self.peak.fetch_max(used, Ordering::Relaxed);
        let reused = self.free.lock().unwrap_or_else(|e| e.into_inner()).get_mut(&class).and_then(Vec::pop);
        if let Some(Block(ptr)) = reused {
            self.cached.fetch_sub(class, Ordering::Relaxed);
            return Ok(ptr);
        }
        let block = MemLayout::from_size_align(class, ALIGN)
            .ok()
            // SAFETY: the layout's size is not zero.
            .and_then(|layout| NonNull::new(unsafe { alloc::alloc_zeroed(layout) }));
        let Some(ptr) = block else {
            self.in_use.fetch_sub(class, Ordering::Relaxed);
            let message = format!("no memory for {class} bytes beside the {} in use", used - class);
            return Err(Error::argument("allocate", message));
        };
        self.system_allocations.fetch_add(1, Ordering::Relaxed);
        Ok(ptr)
    }

    fn give(&self, class: usize, ptr: NonNull<u8>) {
        self.in_use.fetch_sub(class, Ordering::Relaxed);
        self.cached.fetch_add(class, Ordering::Relaxed);
        self.free.lock().unwrap_or_else(|e| e.into_inner()).entry(class).or_default().push(Block(ptr));
    }
}
