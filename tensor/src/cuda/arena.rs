//! Memory of a GPU: segments from the driver, cut best-fit into blocks that are joined again when freed.
//!
//! All work runs on one stream in order, so a block can be reused as soon as the host frees it. A captured graph writes
//! the addresses it was captured with, so it needs an [`Arena`] of its own.

use super::Cuda;
use crate::{Error, Result};
use cudarc::driver::{result as driver, sys};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{LazyLock, Mutex};

/// Every block starts at a multiple of this; enough for 16-byte loads, TMA and cuBLASLt.
const ALIGN: usize = 512;
/// Smallest segment taken from the driver.
const SEGMENT: usize = 32 << 20;
/// Larger segments are a multiple of this.
const SEGMENT_STEP: usize = 2 << 20;

/// What a GPU's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In live tensors.
    pub in_use: usize,
    /// Most bytes ever in live tensors.
    pub peak: usize,
    /// Taken from the driver.
    pub reserved: usize,
    /// Most bytes ever taken from the driver.
    pub peak_reserved: usize,
    /// How often memory was asked of the driver.
    pub segments: usize,
    /// Most bytes that may be taken from the driver.
    pub limit: Option<usize>,
}

/// A part of a GPU's memory with segments of its own: what runs within [`Cuda::within`] allocates there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    index: usize,
}

#[derive(Default)]
pub(super) struct Memory(Mutex<State>);

struct State {
    arenas: Vec<Blocks>,
    /// The arena that allocations go to.
    current: usize,
    stats: MemoryStats,
    capturing: bool,
}

impl Default for State {
    fn default() -> Self {
        State { arenas: vec![Blocks::default()], current: 0, stats: MemoryStats::default(), capturing: false }
    }
}

/// Free blocks of one arena.
#[derive(Default)]
struct Blocks {
    /// Length of each free block, by address.
    by_address: BTreeMap<u64, usize>,
    /// `(length, address)` of the same.
    by_length: BTreeSet<(usize, u64)>,
    /// Length of each segment, by address.
    segments: BTreeMap<u64, usize>,
    /// Captured graphs that work in these segments, whether or not a tensor is there.
    graphs: usize,
}

impl Blocks {
    /// The smallest free block that holds `len`, the lowest of equals.
    fn take(&mut self, len: usize) -> Option<u64> {
        let (found, address) = *self.by_length.range((len, 0)..).next()?;
        self.remove(address, found);
        if found > len {
            self.insert(address + len as u64, found - len);
        }
        Some(address)
    }

    fn insert(&mut self, address: u64, len: usize) {
        self.by_address.insert(address, len);
        self.by_length.insert((len, address));
    }

    fn remove(&mut self, address: u64, len: usize) {
        self.by_address.remove(&address);
        self.by_length.remove(&(len, address));
    }

    /// Frees a block and joins it with free neighbours of the same segment.
    fn give(&mut self, mut address: u64, mut len: usize) {
        let before = self.by_address.range(..address).next_back().map(|(&a, &l)| (a, l));
        // A block that begins a segment must not grow into the one before it.
        if let Some((a, l)) =
            before.filter(|&(a, l)| a + l as u64 == address && !self.segments.contains_key(&address))
        {
            self.remove(a, l);
            (address, len) = (a, len + l);
        }
        let end = address + len as u64;
        if let Some(&l) = self.by_address.get(&end).filter(|_| !self.segments.contains_key(&end)) {
            self.remove(end, l);
            len += l;
        }
        self.insert(address, len);
    }

    /// Segments of which no part is in use, by a tensor or a graph, taken out of the books.
    fn take_unused_segments(&mut self) -> Vec<(u64, usize)> {
        if self.graphs > 0 {
            return Vec::new();
        }
        let unused: Vec<_> = self
            .segments
            .iter()
            .map(|(&a, &l)| (a, l))
            .filter(|(a, l)| self.by_address.get(a) == Some(l))
            .collect();
        for &(address, len) in &unused {
            self.remove(address, len);
            self.segments.remove(&address);
        }
        unused
    }
}

/// Whether each tensor gets memory of its own from the driver, which is neither kept nor poisoned:
/// `DISTILLIX_SEPARATE_MEMORY=1`, read once. Slow, and for compute-sanitizer alone: it sees what is read or written
/// beside a tensor only if the driver gave that to nobody, and what is read unwritten only if nothing filled it.
fn is_separate() -> bool {
    static SEPARATE: LazyLock<bool> =
        LazyLock::new(|| std::env::var("DISTILLIX_SEPARATE_MEMORY").as_deref() == Ok("1"));
    *SEPARATE
}

/// Device memory of a tensor; goes back to where it came from when dropped.
pub(crate) struct CudaBuffer {
    gpu: Cuda,
    /// `None` if it came from the driver for this tensor alone.
    arena: Option<usize>,
    address: u64,
    /// Bytes asked for.
    len: usize,
}

impl CudaBuffer {
    /// `len` bytes of unspecified content for `what`, which an error names.
    pub fn new(gpu: Cuda, len: usize, what: &dyn Display) -> Result<Self> {
        gpu.bind()?;
        let size = block_size(len);
        let mut state = gpu.0.memory.lock();
        // What a captured graph uses has to stay, so only the first arena does without.
        let separate = is_separate() && state.current == 0 && !state.capturing;
        let arena = (!separate).then_some(state.current);
        let free = arena.and_then(|arena| state.arenas[arena].take(size));
        let address = match (free, separate) {
            (Some(address), _) => address,
            (None, false) => state.grow(gpu, size, what)?,
            (None, true) => state.separate(gpu, len, what)?,
        };
        state.stats.in_use += size;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        drop(state);
        let buffer = CudaBuffer { gpu, arena, address, len };
        if crate::storage::is_poisoned() && !is_separate() {
            gpu.set_bytes(address, 0xff, len)?;
        }
        Ok(buffer)
    }

    pub fn gpu(&self) -> Cuda {
        self.gpu
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        let mut state = self.gpu.0.memory.lock();
        let size = block_size(self.len);
        state.stats.in_use -= size;
        if let Some(arena) = self.arena {
            return state.arenas[arena].give(self.address, size);
        }
        state.stats.reserved -= size;
        // Freeing would spoil a capture; better to lose a little while debugging.
        if !state.capturing && self.gpu.bind().is_ok() {
            // SAFETY: the memory was this tensor's alone, and the driver finishes the work given before it frees.
            let _ = unsafe { driver::free_sync(self.address) };
        }
    }
}

fn block_size(len: usize) -> usize {
    len.max(1).next_multiple_of(ALIGN)
}

impl Memory {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    /// A block of `size` bytes from a new segment of the current arena.
    fn grow(&mut self, gpu: Cuda, size: usize, what: &dyn Display) -> Result<u64> {
        if self.capturing {
            let message = format!("{what} needs memory that the steps before the capture did not use");
            return Err(Error::device(gpu.to_string(), message));
        }
        let mut len = size.max(SEGMENT).next_multiple_of(SEGMENT_STEP);
        let left = self.stats.limit.map_or(usize::MAX, |limit| limit.saturating_sub(self.stats.reserved));
        if len > left {
            self.release_unused()?;
            let left = self.stats.limit.map_or(usize::MAX, |limit| limit.saturating_sub(self.stats.reserved));
            len = len.min(left / SEGMENT_STEP * SEGMENT_STEP);
        }
        let address = if len < size { None } else { self.segment(len)? };
        let address = match address {
            Some(address) => address,
            None => {
                self.release_unused()?;
                len = size.next_multiple_of(SEGMENT_STEP);
                let fits = self.stats.limit.is_none_or(|limit| self.stats.reserved + len <= limit);
                let address = if fits { self.segment(len)? } else { None };
                address.ok_or_else(|| self.out_of_memory(gpu, size, what))?
            }
        };
        self.stats.reserved += len;
        self.stats.peak_reserved = self.stats.peak_reserved.max(self.stats.reserved);
        self.stats.segments += 1;
        let blocks = &mut self.arenas[self.current];
        blocks.segments.insert(address, len);
        if len > size {
            blocks.insert(address + size as u64, len - size);
        }
        Ok(address)
    }

    /// Memory from the driver for one tensor of `len` bytes, counted as a block.
    fn separate(&mut self, gpu: Cuda, len: usize, what: &dyn Display) -> Result<u64> {
        let size = block_size(len);
        let fits = self.stats.limit.is_none_or(|limit| self.stats.reserved + size <= limit);
        let address = if fits { self.segment(len.max(1))? } else { None };
        let address = address.ok_or_else(|| self.out_of_memory(gpu, size, what))?;
        self.stats.reserved += size;
        self.stats.peak_reserved = self.stats.peak_reserved.max(self.stats.reserved);
        self.stats.segments += 1;
        Ok(address)
    }

    /// Memory from the driver, or `None` if it has too little.
    fn segment(&self, len: usize) -> Result<Option<u64>> {
        // SAFETY: the context is current; the memory is used through the books of this module alone.
        match unsafe { driver::malloc_sync(len) } {
            Ok(address) => Ok(Some(address)),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(e) => Err(Error::device("cuda", format!("allocating {len} bytes: {:?}", e.0))),
        }
    }

    fn release_unused(&mut self) -> Result<()> {
        for blocks in &mut self.arenas {
            for (address, len) in blocks.take_unused_segments() {
                self.stats.reserved -= len;
                // SAFETY: no tensor and no graph uses the segment, and the driver finishes the work given before it frees.
                unsafe { driver::free_sync(address) }
                    .map_err(|e| Error::device("cuda", format!("freeing {len} bytes: {:?}", e.0)))?;
            }
        }
        Ok(())
    }

    fn out_of_memory(&self, gpu: Cuda, size: usize, what: &dyn Display) -> Error {
        Error::OutOfMemory {
            device: gpu.to_string(),
            what: what.to_string(),
            op: None,
            requested: size,
            in_use: self.stats.in_use,
            reserved: self.stats.reserved,
            limit: self.stats.limit,
        }
    }
}

impl Cuda {
    /// What the memory is used for now.
    pub fn memory_stats(self) -> MemoryStats {
        self.0.memory.lock().stats
    }

    /// Bounds what is taken from the driver, in bytes; more is an [`Error::OutOfMemory`].
    pub fn set_memory_limit(self, limit: Option<usize>) {
        self.0.memory.lock().stats.limit = limit;
    }

    /// Gives segments that hold no tensor back to the driver, but for those of arenas that a [`Graph`](super::Graph) works in.
    pub fn trim_memory(self) -> Result<()> {
        self.bind()?;
        self.0.memory.lock().release_unused()
    }

    /// A new arena, without memory until something is allocated in it.
    pub fn arena(self) -> Arena {
        let mut state = self.0.memory.lock();
        state.arenas.push(Blocks::default());
        Arena { index: state.arenas.len() - 1 }
    }

    /// Runs `f`, whose allocations come from `arena`. One thread at a time works on a device.
    pub fn within<T>(self, arena: Arena, f: impl FnOnce() -> T) -> T {
        struct Back(Cuda, usize);
        impl Drop for Back {
            fn drop(&mut self) {
                self.0.0.memory.lock().current = self.1;
            }
        }
        let before = std::mem::replace(&mut self.0.memory.lock().current, arena.index);
        let _back = Back(self, before);
        f()
    }

    /// Keeps the memory of `arena` for a graph, until [`Cuda::unpin`].
    pub(super) fn pin(self, arena: Arena) {
        self.0.memory.lock().arenas[arena.index].graphs += 1;
    }

    pub(super) fn unpin(self, arena: Arena) {
        self.0.memory.lock().arenas[arena.index].graphs -= 1;
    }

    pub(super) fn set_capturing(self, on: bool) {
        self.0.memory.lock().capturing = on;
    }

    pub(super) fn is_capturing(self) -> bool {
        self.0.memory.lock().capturing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_best_fit_and_joined_again() {
        let mut blocks = Blocks::default();
        blocks.segments.extend([(0x1000, 0x1000), (0x2000, 0x800)]);
        blocks.insert(0x1000, 0x1000);
        blocks.insert(0x2000, 0x800);
        // The smaller segment fits better.
        assert_eq!(blocks.take(0x600), Some(0x2000));
        assert_eq!(blocks.take(0x400), Some(0x1000));
        assert_eq!(blocks.take(0x400), Some(0x1400));
        assert_eq!(blocks.take(0x1000), None);
        blocks.give(0x1000, 0x400);
        blocks.give(0x2000, 0x600);
        blocks.give(0x1400, 0x400);
        // Neighbours are joined, but never across segments.
        assert_eq!(blocks.by_address, BTreeMap::from([(0x1000, 0x1000), (0x2000, 0x800)]));
        assert_eq!(blocks.by_length.len(), 2);
        // What a graph writes to without a tensor stays.
        blocks.graphs = 1;
        assert!(blocks.take_unused_segments().is_empty());
        blocks.graphs = 0;
        assert_eq!(blocks.take_unused_segments(), [(0x1000, 0x1000), (0x2000, 0x800)]);
        assert!(blocks.by_address.is_empty());
    }
}
