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
    #[error("{device}: no memory for {what}{} ({} MiB): {} MiB are in use, {}{} MiB taken from the driver",
        op.map(|op| format!(" of {op}")).unwrap_or_default(), requested.div_ceil(1 << 20), in_use >> 20,
        reserved >> 20, limit.map(|limit| format!(" of at most {}", limit >> 20)).unwrap_or_default())]
    OutOfMemory {
        /// The device.
        device: String,
        /// What was to be kept there: type and dimensions of a tensor.
        what: String,
        /// The operation that asked for it, if that is known.
        op: Option<&'static str>,
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

    /// The error; if memory ran out and it is not known for whom, then for `op`.
    pub fn asked_by(mut self, asking: &'static str) -> Self {
        if let Error::OutOfMemory { op: op @ None, .. } = &mut self {
            *op = Some(asking);
        }
        self
    }

    /// An argument error of `op`.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Error::Argument { op, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_was_no_memory_for_is_named() {
        let error = Error::OutOfMemory {
            device: "cuda:0".to_owned(),
            what: "bf16 [16, 2048, 768]".to_owned(),
            op: None,
            requested: 48 << 20,
            in_use: 7100 << 20,
            reserved: 7150 << 20,
            limit: Some(7168 << 20),
        };
        let error = error.asked_by("swiglu").asked_by("checkpoint").to_string();
        assert_eq!(
            error,
            "cuda:0: no memory for bf16 [16, 2048, 768] of swiglu (48 MiB): 7100 MiB are in use, 7150 of at most 7168 MiB \
             taken from the driver"
        );
        assert_eq!(Error::shape("add", "no").asked_by("swiglu").to_string(), "add: no");
    }
}
