//! Errors say the operation, and the shapes or types it met.

use crate::DType;

/// What an operation could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes do not fit the operation.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes, and what was expected of them.
        message: String,
    },
    /// An element type the operation does not take.
    #[error("{op}: expected {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it got.
        got: DType,
    },
    /// A contiguous tensor was needed.
    #[error(
        "{op}: needs a contiguous tensor, got dims {dims:?} with strides {strides:?}; call contiguous() first"
    )]
    NotContiguous {
        /// The operation.
        op: &'static str,
        /// Dimensions of the tensor.
        dims: Vec<usize>,
        /// Its strides, in elements.
        strides: Vec<usize>,
    },
    /// Memory that others can see was about to be written.
    #[error(
        "{op}: the tensor's memory is shared with another tensor or read-only, so it cannot be written in place"
    )]
    Shared {
        /// The operation.
        op: &'static str,
    },
    /// An argument out of its range.
    #[error("{op}: {message}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What was wrong.
        message: String,
    },
    /// A device cannot be used, or failed.
    #[error("{device}: {message}")]
    Device {
        /// The device.
        device: String,
        /// What was wrong.
        message: String,
    },
    /// A device has too little memory.
    #[error("{device}: no memory for {} MiB beside the {} MiB in use{}", requested.div_ceil(1 << 20), in_use >> 20,
        limit.map(|limit| format!(" (limit {} MiB)", limit >> 20)).unwrap_or_default())]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        requested: usize,
        /// Bytes in live tensors.
        in_use: usize,
        /// Bytes taken from the driver.
        reserved: usize,
        /// Most bytes that may be taken from the driver.
        limit: Option<usize>,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: String,
        /// What was wrong with it.
        message: String,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A shape error of `op`.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }

    /// A type error of `op`.
    pub fn dtype(op: &'static str, expected: &'static str, got: DType) -> Self {
        Error::DType { op, expected, got }
    }

    /// An error of a device.
    pub fn device(device: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Device { device: device.into(), message: message.into() }
    }

    /// An argument error of `op`.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Error::Argument { op, message: message.into() }
    }
}
