//! Code that was run before it is trusted.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::language::Language;
use crate::foundry::sandbox::{Limits, Options, Outcome, Sandbox};
use anyhow::{Result, anyhow};

/// Runs Python records that have tests in the sandbox, and drops those that do not pass. Others are kept as they are.
pub struct Execute {
    sandbox: Sandbox,
    limits: Limits,
}

impl Execute {
    /// The stage for a config; `None` if it asks for no run.
    ///
    /// # Errors
    /// When the machine cannot confine untrusted code, or there is no Python.
    pub fn new(config: &CleanConfig) -> Result<Option<Self>> {
        if !config.execute {
            return Ok(None);
        }
        let limits = config.execute_limits()?;
        Ok(Some(Self { sandbox: Sandbox::new(Options::default())?, limits }))
    }
}

impl CleanConfig {
    /// The limits of a run that tests an answer.
    ///
    /// # Errors
    /// When the time is none that a sandbox takes.
    pub fn execute_limits(&self) -> Result<Limits> {
        let limits = Limits {
            wall_seconds: self.execute_seconds,
            cpu_seconds: (self.execute_seconds.ceil() as u64).saturating_add(1),
            ..Limits::default()
        };
        limits.check().map_err(|problem| anyhow!("foundry.clean.execute_seconds: {problem}"))?;
        Ok(limits)
    }
}

impl Stage for Execute {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let tests = draft.record().tests.clone().filter(|tests| !tests.trim().is_empty());
        let (Some(tests), Some(Language::Python)) = (tests, draft.language()) else { return Ok(()) };
        let verdict = self.sandbox.run(draft.body(), Some(&tests), &self.limits);
        let verdict = verdict.map_err(|error| Fault::with("could not be run", error.to_string()))?;
        draft.note("execute", verdict.verdict.name());
        let reason = match verdict.verdict {
            Outcome::Pass => return Ok(()),
            Outcome::Fail => "failed its tests",
            Outcome::Timeout => "ran out of time",
            Outcome::Error => "broke the sandbox's limits, or is no Python",
        };
        Err(Fault::with(reason, verdict.reason))
    }
}
