//! Work captured once and replayed with one call.

use super::{Arena, Cuda};
use crate::Result;
use cudarc::driver::{result as driver, sys};

/// A captured sequence of device work. It reads and writes the addresses it was captured with, so its tensors and its
/// arena must stay as they are.
pub struct Graph {
    gpu: Cuda,
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

impl Cuda {
    /// Records the work that `f` gives instead of running it, with allocations from `arena`, which must have the memory
    /// already: run the same work eagerly in it before. Also returns what `f` does. What another thread gives the device
    /// meanwhile is recorded too.
    ///
    /// # Errors
    /// `f`'s own; or it did what cannot be captured: waited for the device, read or uploaded, or needed new memory.
    pub fn capture<T>(self, arena: Arena, f: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not the default one and lives as long as the process.
        unsafe { driver::stream::begin_capture(self.stream(), mode) }
            .map_err(|e| self.failed("beginning a capture", e))?;
        self.set_capturing(true);
        let done = self.within(arena, f);
        self.set_capturing(false);
        // The capture must end whether or not `f` succeeded.
        // SAFETY: a capture was begun on this stream by this thread.
        let graph = unsafe { driver::stream::end_capture(self.stream()) };
        let done = done?;
        let graph = graph.map_err(|e| self.failed("ending a capture", e))?;
        // SAFETY: `graph` is what the capture returned; the executable does not need it afterwards.
        let executable = unsafe {
            let executable = driver::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = driver::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(|e| self.failed("instantiating a graph", e))?;
        Ok((Graph { gpu: self, executable }, done))
    }
}
