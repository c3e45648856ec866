//! Systems without a sandbox: everything that would run code is an error.

use super::{Limits, Options, SandboxError, Verdict};
use std::process::ExitCode;

/// A sandbox, of which there is none on this system.
#[derive(Clone, Debug)]
pub struct Sandbox(std::convert::Infallible);

impl Sandbox {
    /// # Errors
    /// Always [`SandboxError::Unsupported`].
    pub fn new(_: Options) -> Result<Self, SandboxError> {
        Err(SandboxError::Unsupported(std::env::consts::OS))
    }

    /// Runs code with its tests.
    ///
    /// # Errors
    /// There is no sandbox to call this on.
    pub fn run(&self, _: &str, _: Option<&str>, _: &Limits) -> Result<Verdict, SandboxError> {
        match self.0 {}
    }
}

/// Does nothing on this system.
pub fn launch_if_asked() -> Option<ExitCode> {
    None
}
