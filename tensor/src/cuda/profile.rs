//! Device time by kernel.

use super::{Cuda, Handle, library};
use crate::{Error, Result};
use cudarc::driver::{result as driver, sys};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Device time of one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The kernel's file without extension, or `matmul` for cuBLASLt.
    pub name: &'static str,
    /// Milliseconds.
    pub milliseconds: f32,
}

#[derive(Default)]
pub(super) struct Profile {
    on: AtomicBool,
    records: Mutex<Vec<Record>>,
}

struct Record {
    name: &'static str,
    events: [Handle<sys::CUevent_st>; 2],
}

impl Cuda {
    /// Runs `f` and returns the device time of each launch it made. Slower than without: not for totals.
    pub fn profile<T>(self, f: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Timed>)> {
        self.0.profile.on.store(true, Ordering::Relaxed);
        let done = f();
        self.0.profile.on.store(false, Ordering::Relaxed);
        let records = std::mem::take(&mut *self.0.profile.records.lock().unwrap_or_else(|e| e.into_inner()));
        self.synchronize()?;
        let mut times = Vec::with_capacity(records.len());
        for Record { name, events } in records {
            times.push(Timed { name, milliseconds: elapsed(self, &events)? });
            self.unmark(events);
        }
        Ok((done?, times))
    }

    pub(super) fn timed(self, name: &'static str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.0.profile.on.load(Ordering::Relaxed) {
            return launch();
        }
        let before = self.mark()?;
        launch()?;
        let record = Record { name, events: [before, self.mark()?] };
        self.0.profile.records.lock().unwrap_or_else(|e| e.into_inner()).push(record);
        Ok(())
    }

    /// A recorded event.
    pub(super) fn mark(self) -> Result<Handle<sys::CUevent_st>> {
        let event = driver::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(|e| self.failed("cuEventCreate", e))?;
        // SAFETY: event and stream are alive.
        unsafe { driver::event::record(event, self.stream()) }
            .map_err(|e| self.failed("cuEventRecord", e))?;
        Ok(Handle(event))
    }

    pub(super) fn unmark(self, events: [Handle<sys::CUevent_st>; 2]) {
        for event in events {
            // SAFETY: made in `mark` and destroyed once.
            let _ = unsafe { driver::event::destroy(event.0) };
        }
    }
}

/// Milliseconds between two events that have happened.
pub(super) fn elapsed(gpu: Cuda, events: &[Handle<sys::CUevent_st>; 2]) -> Result<f32> {
    type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    // The bindings call a newer form that older drivers lack.
    // SAFETY: the function has had this signature since CUDA 2.0.
    let function = unsafe { library::driver()?.get::<ElapsedTime>(b"cuEventElapsedTime") }
        .map_err(|e| Error::device(gpu.to_string(), e.to_string()))?;
    let mut milliseconds = 0.0;
    // SAFETY: both events are alive and recorded.
    unsafe { function(&mut milliseconds, events[0].0, events[1].0) }
        .result()
        .map_err(|e| gpu.failed("cuEventElapsedTime", e))?;
    Ok(milliseconds)
}
