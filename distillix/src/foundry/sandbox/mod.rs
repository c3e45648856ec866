//! Runs Python that nobody has read: with its tests, in a sandbox of our own, on Linux.
//!
//! [`Sandbox::run`] answers with a [`Verdict`]: pass, fail, timeout or error. What stands between a sample and the
//! machine is a list of [`Layer`]s. Each is taken where the machine gives it and reported either way; where those that
//! hold do not suffice ([`Layers::lacking`]), nothing is run, unless [`Options::allow_missing`] says so.
//!
//! ```text
//! this process ── launcher (own program, started afresh, empty environment; limits, output, clock)
//!                   └─ init (process 1 of the sample's namespaces; its end is the end of all in them)
//!                        └─ python3 -c driver.py (unprivileged, Landlock, seccomp) ── whatever it starts
//! ```
//!
//! A sample's code and tests run in one interpreter. What the machine is kept from does not rest on that; what the verdict says
//! does. A sample that fails, hangs, floods, forks or ends early is judged rightly, and so is one that walks the frames above
//! it, traces them, reads or replaces the driver's channel, or changes builtins, unittest or the modules that its tests
//! import before they run. One that goes on to search the interpreter (its collector's unfrozen objects, its memory through
//! `ctypes`), or that changes while its tests run what they rest on, can forge a pass, as in every harness that runs both in
//! one process, and gains nothing else by it.
//!
//! A program that uses this module calls [`launch_if_asked`] first in `main`.

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod launcher;
mod layers;
mod limits;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod protocol;
#[cfg(target_os = "linux")]
mod python;
#[cfg(not(target_os = "linux"))]
mod unsupported;
mod verdict;

pub use layers::{Layer, LayerState, Layers};
pub use limits::Limits;
#[cfg(target_os = "linux")]
pub use linux::{Sandbox, launch_if_asked};
#[cfg(not(target_os = "linux"))]
pub use unsupported::{Sandbox, launch_if_asked};
pub use verdict::{Outcome, Verdict};

use std::path::PathBuf;

/// How a [`Sandbox`] is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The program that contains the launcher: one whose `main` begins with [`launch_if_asked`]. `None` is the
    /// program that is running.
    pub launcher: Option<PathBuf>,
    /// The Python interpreter; `None` is the first `python3` of `PATH` that an unprivileged user can run.
    pub python: Option<PathBuf>,
    /// Layers to do without.
    pub without: Vec<Layer>,
    /// Run even if the layers that hold do not suffice to confine a sample.
    pub allow_missing: bool,
}

/// Why the sandbox could not judge a sample. It says nothing about the sample.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The operating system has no sandbox here.
    #[error("running untrusted code needs Linux: there is no sandbox for {0}")]
    Unsupported(&'static str),
    /// The program that is running is no launcher, and no other was named.
    #[error(
        "this program cannot start a sandbox: call sandbox::launch_if_asked first in its main, or name the distillix program as the launcher"
    )]
    NoLauncher,
    /// No interpreter that an unprivileged user can run.
    #[error("no Python to run samples with: {0}")]
    Python(String),
    /// The machine does not give what confining a sample takes.
    #[error(
        "refused to run untrusted code, because this machine cannot confine it: {lacking}. Layers that are missing: {missing}"
    )]
    Refused {
        /// What is not ensured.
        lacking: String,
        /// The layers that do not hold, each with its reason.
        missing: String,
        /// The state of every layer.
        layers: Layers,
    },
    /// The sandbox itself failed.
    #[error("the sandbox failed: {0}")]
    Failed(String),
}
