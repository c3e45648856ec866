//! `--device`, and how many threads compute beside or without it.

use super::{output, threads};
use std::num::NonZeroUsize;
use std::str::FromStr;
use tensor::Device;

/// Where to compute, as asked for on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceArg {
    /// The first GPU that can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The CUDA device of a number.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().map(DeviceArg::Cuda);
        let arg = match s {
            "auto" => Some(DeviceArg::Auto),
            "cpu" => Some(DeviceArg::Cpu),
            "cuda" => Some(DeviceArg::Cuda(0)),
            _ => s.strip_prefix("cuda:").and_then(number),
        };
        arg.ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

impl DeviceArg {
    /// The device asked for.
    ///
    /// # Errors
    /// If this machine or program has no such device.
    pub fn open(&self) -> anyhow::Result<Device> {
        match self {
            DeviceArg::Cpu => Ok(Device::Cpu),
            DeviceArg::Auto => Ok(Device::cuda(0).unwrap_or_else(|error| {
                // Who has a driver expects its card to be used.
                if tensor::cuda::has_driver() {
                    output::stderr(&format!("computing on the CPU, since {error}"));
                }
                Device::Cpu
            })),
            DeviceArg::Cuda(n) => Ok(Device::cuda(*n)?),
        }
    }
}

/// The arguments that say what to compute with.
#[derive(Debug, clap::Args)]
pub(super) struct Compute {
    /// auto, cpu or cuda[:N].
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// Threads to compute with, one a core if not given; results do not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Compute {
    /// Starts the threads, and gives the device. To be called before anything is computed.
    ///
    /// # Errors
    /// If there is no such device, or the threads cannot be started.
    pub(super) fn open(&self) -> anyhow::Result<Device> {
        threads::set(self.threads)?;
        self.device.open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let read = |s: &str| s.parse::<DeviceArg>().ok();
        assert_eq!(read("auto"), Some(DeviceArg::Auto));
        assert_eq!(read("cuda:3"), Some(DeviceArg::Cuda(3)));
        assert_eq!((read("cuda:"), read("gpu"), read("cuda:-1")), (None, None, None));
        assert!(DeviceArg::Cuda(999).open().is_err());
    }
}
