//! Where a tensor's memory lives and its operations run.

use crate::Result;
use crate::cuda::Cuda;
use std::fmt;

/// Where a tensor's memory lives and its operations run. Chosen at run time.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// Host memory; operations run on rayon's current thread pool.
    #[default]
    Cpu,
    /// An NVIDIA GPU; operations run on its stream, in the order they were given.
    Cuda(Cuda),
}

impl Device {
    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// If there is none, or a library it needs is missing or too old; the message says what to install.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Cuda::open(ordinal).map(Device::Cuda)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) => gpu.fmt(f),
        }
    }
}
