//! NVIDIA GPUs through the CUDA driver, NVRTC and cuBLASLt, all loaded at run time: a binary built with this module runs
//! where none of them exists.
//!
//! One stream a device: work runs in the order it was given, and memory that one operation frees the next may take.
//! Nothing waits for the device but [`Cuda::synchronize`], reads to the host, and the allocation of a new segment.

mod arena;
mod blas;
mod cache;
mod compile;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod elementwise;
mod graph;
pub(crate) mod index;
mod launch;
mod library;
mod module;
mod profile;
pub(crate) mod random;
pub(crate) mod reduce;
pub(crate) mod softmax;
pub(crate) mod sort;
mod tensor_map;
mod transfer;
mod walk;

pub(crate) use arena::CudaBuffer;
pub use arena::{Arena, MemoryStats};
pub use blas::{BlasChoice, Mat};
pub use graph::Graph;
pub(crate) use launch::check_float;
pub use launch::{Grid, Launch};
pub use profile::Timed;
pub use tensor_map::TensorMap;
pub use transfer::Pending;

use crate::{Error, Result};
use cudarc::driver::{result as driver, sys};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open GPU. Cheap to copy; every handle of a device is the same one.
#[derive(Clone, Copy)]
pub struct Cuda(&'static Inner);

struct Inner {
    ordinal: usize,
    name: String,
    /// Compute capability: 90 for 9.0.
    arch: u32,
    multiprocessors: u32,
    /// Largest dynamic shared memory of a block, in bytes.
    shared_memory: u32,
    context: Handle<sys::CUctx_st>,
    stream: Handle<sys::CUstream_st>,
    memory: arena::Memory,
    modules: module::Modules,
    blas: blas::Blas,
    staging: Mutex<transfer::Staging>,
    profile: profile::Profile,
    waits: AtomicU64,
}

/// A driver's handle, which any thread may use.
struct Handle<T>(*mut T);
// SAFETY: the driver's handles are not bound to the thread that made them; the driver locks where it must.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

static OPEN: Mutex<BTreeMap<usize, Cuda>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The device whose context this thread uses.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Cuda {
    /// Opens GPU `ordinal`, or returns the handle it was opened with: finds the driver, NVRTC and cuBLASLt, and compiles
    /// the kernels or loads them from the cache.
    ///
    /// # Errors
    /// If a library is missing or too old, or there is no such GPU; the message says what to install.
    pub fn open(ordinal: usize) -> Result<Self> {
        let mut open = OPEN.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(gpu) = open.get(&ordinal) {
            return Ok(*gpu);
        }
        library::driver()?;
        driver::init().map_err(|e| failed(ordinal, "cuInit", e))?;
        library::check_driver_version()?;
        let count = driver::device::get_count().map_err(|e| failed(ordinal, "cuDeviceGetCount", e))?;
        if ordinal >= count as usize {
            let message = match count {
                0 => "the driver finds no GPU".to_owned(),
                1 => "there is one GPU, cuda:0".to_owned(),
                n => format!("there are {n} GPUs, cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::device(ordinal_name(ordinal), message));
        }
        let inner = Self::create(ordinal).map_err(|e| failed(ordinal, "opening the GPU", e))?;
        let oldest = 75;
        if inner.arch < oldest {
            let message = format!(
                "{} has compute capability {}.{}; the oldest supported is 7.5 (Turing)",
                inner.name,
                inner.arch / 10,
                inner.arch % 10
            );
            return Err(Error::device(ordinal_name(ordinal), message));
        }
        library::nvrtc()?;
        library::cublas_lt()?;
        // A device stays open until the process ends, as the driver's primary context does.
        let gpu = Cuda(Box::leak(Box::new(inner)));
        CURRENT.set(Some(ordinal));
        gpu.0.modules.prepare(gpu)?;
        open.insert(ordinal, gpu);
        Ok(gpu)
    }

    fn create(ordinal: usize) -> Result<Inner, driver::DriverError> {
        use sys::CUdevice_attribute as Attribute;
        let device = driver::device::get(ordinal as i32)?;
        let name = driver::device::get_name(device)?;
        // SAFETY: `device` is a device of the driver.
        let attribute = |which| unsafe { driver::device::get_attribute(device, which) };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared_memory =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32;
        // SAFETY: as above; the context is retained for the life of the process.
        let context = unsafe { driver::primary_ctx::retain(device) }?;
        // SAFETY: `context` was just retained.
        unsafe { driver::ctx::set_current(context) }?;
        // The default stream refuses graph capture.
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)?;
        Ok(Inner {
            ordinal,
            name,
            arch: (major * 10 + minor) as u32,
            multiprocessors,
            shared_memory,
            context: Handle(context),
            stream: Handle(stream),
            memory: arena::Memory::default(),
            modules: module::Modules::default(),
            blas: blas::Blas::default(),
            staging: Mutex::default(),
            profile: profile::Profile::default(),
            waits: AtomicU64::new(0),
        })
    }

    /// Its number among the driver's GPUs.
    pub fn ordinal(self) -> usize {
        self.0.ordinal
    }

    /// The card's name.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Compute capability: 90 for 9.0.
    pub fn arch(self) -> u32 {
        self.0.arch
    }

    /// Number of multiprocessors.
    pub fn multiprocessors(self) -> u32 {
        self.0.multiprocessors
    }

    /// Largest dynamic shared memory of a block, in bytes.
    pub fn shared_memory(self) -> u32 {
        self.0.shared_memory
    }

    /// Free and total memory of the card, in bytes, as the driver sees it.
    pub fn memory_info(self) -> Result<(usize, usize)> {
        self.bind()?;
        driver::mem_get_info().map_err(|e| self.failed("cuMemGetInfo", e))
    }

    /// Waits until all work given so far is done.
    pub fn synchronize(self) -> Result<()> {
        self.bind()?;
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the stream lives as long as the process.
        unsafe { driver::stream::synchronize(self.stream()) }
            .map_err(|e| self.failed("waiting for the GPU", e))
    }

    /// How often the host has waited for the device.
    pub fn waits(self) -> u64 {
        self.0.waits.load(Ordering::Relaxed)
    }

    fn stream(self) -> sys::CUstream {
        self.0.stream.0
    }

    /// Makes the device's context this thread's.
    fn bind(self) -> Result<()> {
        if CURRENT.get() == Some(self.0.ordinal) {
            return Ok(());
        }
        // SAFETY: the context is retained for the life of the process.
        unsafe { driver::ctx::set_current(self.0.context.0) }
            .map_err(|e| self.failed("cuCtxSetCurrent", e))?;
        CURRENT.set(Some(self.0.ordinal));
        Ok(())
    }

    fn failed(self, what: &str, error: driver::DriverError) -> Error {
        failed(self.0.ordinal, what, error)
    }
}

/// Whether this machine has NVIDIA's driver, with all that is called of it.
pub fn has_driver() -> bool {
    library::driver().is_ok()
}

fn ordinal_name(ordinal: usize) -> String {
    format!("cuda:{ordinal}")
}

/// An error of the driver in words.
fn failed(ordinal: usize, what: &str, error: driver::DriverError) -> Error {
    use sys::CUresult as Code;
    let hint = match error.0 {
        Code::CUDA_ERROR_NO_DEVICE => " (the driver finds no GPU)",
        Code::CUDA_ERROR_ILLEGAL_ADDRESS | Code::CUDA_ERROR_LAUNCH_FAILED | Code::CUDA_ERROR_ASSERT => {
            " (a kernel before it failed; the GPU cannot be used again by this process)"
        }
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_UNKNOWN => " (the GPU is lost: see nvidia-smi)",
        _ => "",
    };
    Error::device(ordinal_name(ordinal), format!("{what}: {:?}{hint}", error.0))
}

impl PartialEq for Cuda {
    fn eq(&self, other: &Self) -> bool {
        self.0.ordinal == other.0.ordinal
    }
}

impl Eq for Cuda {}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.0.ordinal, self.0.name)
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.0.ordinal)
    }
}
