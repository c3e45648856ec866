//! Per-thread scratch memory that survives calls, so that a warmed-up product allocates nothing.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

const ALIGN: usize = 64;

struct Buffer {
    ptr: NonNull<u8>,
    layout: Layout,
}

impl Buffer {
    fn new(bytes: usize) -> Self {
        // A whole number of pages keeps slowly growing requests from reallocating every time.
        let bytes = bytes.max(1).next_multiple_of(4096);
        let layout = Layout::from_size_align(bytes, ALIGN).expect("scratch size fits the address space");
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { ptr, layout }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc` with this layout and is freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

thread_local! {
    static IDLE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `bytes` bytes of uninitialised memory aligned to 64, taken from this thread's idle buffers.
///
/// Nested calls get different buffers. The memory must be written before it is read and must not be used after `f`
/// returns.
pub(crate) fn with_scratch<R>(bytes: usize, f: impl FnOnce(*mut u8) -> R) -> R {
    let buffer = IDLE.with_borrow_mut(|idle| {
        // Smallest that fits; failing that, the largest is replaced by a bigger one.
        let fit = (0..idle.len())
            .filter(|&i| idle[i].layout.size() >= bytes)
            .min_by_key(|&i| idle[i].layout.size());
        match fit {
            Some(i) => idle.swap_remove(i),
            None => {
                if let Some(i) = (0..idle.len()).max_by_key(|&i| idle[i].layout.size()) {
                    idle.swap_remove(i);
                }
                Buffer::new(bytes)
            }
        }
    });
    let result = f(buffer.ptr.as_ptr());
    IDLE.with_borrow_mut(|idle| idle.push(buffer));
    result
}
