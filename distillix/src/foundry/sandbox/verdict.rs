//! What a run says about a sample.

use super::Layers;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The tests ran to their end and nothing failed; without tests, the program ended with status 0.
    Pass,
    /// An exception, a failed assertion, a status other than 0, or an end before the tests were done.
    Fail,
    /// The wall clock or a processor time limit ran out.
    Timeout,
    /// The code is no Python, the tests check nothing or cannot be run, or the run was stopped for its memory, output or disk use,
    /// or by a signal.
    Error,
}

impl Outcome {
    /// The name, as in records.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Timeout => "timeout",
            Outcome::Error => "error",
        }
    }
}

/// What a run says about a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Pass, fail, timeout or error.
    pub verdict: Outcome,
    /// Why it is no pass; empty if it is.
    pub reason: String,
    /// The exit status, if the interpreter ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended the interpreter.
    pub signal: Option<i32>,
    /// From start to end, in seconds.
    pub wall_seconds: f64,
    /// Processor time of the processes that were waited for, in seconds.
    pub cpu_seconds: f64,
    /// The most memory that the control group held, or without one the most that one process did, in bytes.
    pub peak_memory_bytes: u64,
    /// What the sample wrote to stdout, up to the limit; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What the sample wrote to stderr, up to the limit.
    pub stderr: String,
    /// What stood between the sample and the machine.
    pub layers: Layers,
}

impl Verdict {
    /// Whether the sample passed.
    pub fn passed(&self) -> bool {
        self.verdict == Outcome::Pass
    }
}
