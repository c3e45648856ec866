//! What a sample may use.

use serde::{Deserialize, Serialize};

/// What one run of a sample, with all processes that it starts, may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Time from start to end, in seconds.
    pub wall_seconds: f64,
    /// Processor time of each process, in whole seconds.
    pub cpu_seconds: u64,
    /// Memory, in bytes: address space of each process, and memory of all of them together.
    pub memory_bytes: u64,
    /// Processes and threads at one time.
    pub processes: u64,
    /// Bytes written to stdout and stderr together.
    pub output_bytes: usize,
    /// Size of the private temporary folder, in bytes.
    pub disk_bytes: u64,
    /// Open files of each process.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_seconds: 10.0,
            cpu_seconds: 10,
            memory_bytes: 512 << 20,
            processes: 16,
            output_bytes: 256 << 10,
            disk_bytes: 32 << 20,
            files: 128,
        }
    }
}

impl Limits {
    /// The first limit that no run could keep, as a message.
    pub fn check(&self) -> Result<(), String> {
        let wall = self.wall_seconds;
        if !(wall.is_finite() && (0.01..=86_400.0).contains(&wall)) {
            return Err(format!("a time limit of {wall} seconds: give 0.01 to 86400"));
        }
        for (what, value, least) in [
            ("cpu_seconds", self.cpu_seconds, 1),
            ("memory_bytes", self.memory_bytes, 32 << 20),
            ("processes", self.processes, 1),
            ("disk_bytes", self.disk_bytes, 64 << 10),
            ("files", self.files, 16),
        ] {
            if value < least {
                return Err(format!(
                    "{what} {value} is less than an interpreter needs: give at least {least}"
                ));
            }
        }
        Ok(())
    }
}
