//! Work captured once and replayed with one call.

use super::{Arena, Cuda};
use crate::Result;
use cudarc::driver::{result as driver, sys};

/// A captured sequence of device work. It reads and writes the addresses it was captured with, so its tensors must stay
/// as they are; its arena keeps its memory as long as the graph lives.
pub struct Graph {
    gpu: Cuda,
    arena: Arena,
    executable: sys::CUgraphExec,
}

// SAFETY: the driver's handles are not bound to a thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: instantiated in `capture` and destroyed once; the driver finishes running launches first.
            let _ = unsafe { driver::graph::exec_destroy(self.executable) };
        }
        self.gpu.unpin(self.arena);
    }
}

impl Graph {
    /// Runs the captured work again, after what was given before.
    pub fn launch(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the executable is alive.
        unsafe { driver::graph::launch(self.executable, self.gpu.stream()) }
            .map_err(|e| self.gpu.failed("launching a graph", e))
    }
}

/// An open capture. Dropped before its end, by an error or a panic, it ends and what it recorded is lost.
struct Capture {
    gpu: Cuda,
    open: bool,
}

impl Capture {
    fn begin(gpu: Cuda) -> Result<Self> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not the default one and lives as long as the process.
        unsafe { driver::stream::begin_capture(gpu.stream(), mode) }
            .map_err(|e| gpu.failed("beginning a capture", e))?;
        gpu.set_capturing(true);
        Ok(Capture { gpu, open: true })
    }

    /// What was recorded, for the caller to destroy.
    fn end(&mut self) -> Result<sys::CUgraph> {
        self.open = false;
        // SAFETY: a capture was begun on this stream by this thread.
        let graph = unsafe { driver::stream::end_capture(self.gpu.stream()) };
        self.gpu.set_capturing(false);
        graph.map_err(|e| self.gpu.failed("ending a capture", e))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.open
            && let Ok(graph) = self.end()
        {
            // SAFETY: just recorded, and nobody else has it.
            let _ = unsafe { driver::graph::destroy(graph) };
        }
    }
}

impl Cuda {
    /// Records the work that `f` gives instead of running it, with allocations from `arena`, which must have the memory
    /// already: run the same work eagerly in it before. Also returns what `f` does. What another thread gives the device
    /// meanwhile is recorded too.
    ///
    /// # Errors
    /// `f`'s own; or it did what cannot be captured: waited for the device, read or uploaded, or needed new memory.
    pub fn capture<T>(self, arena: Arena, f: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        self.bind()?;
        let mut capture = Capture::begin(self)?;
        let done = self.within(arena, f)?;
        let graph = capture.end()?;
        // SAFETY: `graph` is what the capture returned; the executable does not need it afterwards.
        let executable = unsafe {
            let executable = driver::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = driver::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(|e| self.failed("instantiating a graph", e))?;
        self.pin(arena);
        Ok((Graph { gpu: self, arena, executable }, done))
    }
}
