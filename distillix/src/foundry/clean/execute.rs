//! Code that was run before it is trusted.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::language::Language;
use crate::foundry::sandbox::{Limits, Options, Outcome, Sandbox};
use crate::foundry::tester::program;
use anyhow::{Result, anyhow};
use std::sync::OnceLock;

/// Runs Python records that have tests in the sandbox, and drops those that do not pass. Others are kept as they are.
pub struct Execute {
    sandbox: Sandbox,
    limits: Limits,
    /// Why the sandbox judges no more.
    broken: OnceLock<String>,
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
        Ok(Some(Self { sandbox: Sandbox::new(Options::default())?, limits, broken: OnceLock::new() }))
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
        let not_run = || Fault::new("could not be run");
        if self.broken.get().is_some() {
            return Err(not_run());
        }
        // That the sandbox fails says nothing of the record, so the cleaning ends, and drops nothing for it.
        let verdict = self
            .sandbox
            .run(&program(draft.record().prompt.as_deref(), draft.body()), Some(&tests), &self.limits)
            .map_err(|error| {
                self.broken.get_or_init(|| error.to_string());
                not_run()
            })?;
        draft.note("execute", verdict.verdict.name());
        let reason = match verdict.verdict {
            Outcome::Pass => return Ok(()),
            Outcome::Fail => "failed its tests",
            Outcome::Timeout => "ran out of time",
            Outcome::Error => "broke the sandbox's limits, or could not be judged",
        };
        Err(Fault::with(reason, verdict.reason))
    }

    fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }
}
