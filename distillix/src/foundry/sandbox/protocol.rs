//! What the sandbox and its launcher tell each other: one JSON request on the launcher's stdin, one JSON report on its
//! stdout.

use super::{Layer, Layers, Limits, Verdict};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The first argument that makes this program a launcher.
pub(super) const LAUNCHER: &str = "sandbox-launcher";

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The process that asks; the launcher ends with it.
    pub(super) parent: u32,
    pub(super) limits: Limits,
    pub(super) without: Vec<Layer>,
    pub(super) allow_missing: bool,
    /// The interpreter.
    pub(super) python: PathBuf,
    /// Folders and files that a sample may read: the system's and the interpreter's.
    pub(super) readable: Vec<PathBuf>,
    /// An empty folder, this run's own: the sample's temporary folder, or the place where its file system is put.
    pub(super) folder: PathBuf,
    /// The user and group that root becomes.
    pub(super) user: u32,
    /// A control group made for this run, or why there is none.
    pub(super) cgroup: Result<PathBuf, String>,
    /// What the sample is called in tracebacks.
    pub(super) name: String,
    pub(super) code: String,
    pub(super) tests: Option<String>,
    /// A number that nobody else knows.
    pub(super) nonce: String,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The sample ran.
    Judged(Box<Verdict>),
    /// Nothing was run, because the layers that hold do not suffice.
    Refused(Layers),
    /// Nothing was run, or the run was lost.
    Failed(String),
}
