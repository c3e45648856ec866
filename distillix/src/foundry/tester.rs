//! Runs the tests of prompts on answers, in the sandbox.

use super::clean::{CleanConfig, Outcome, Pipeline, STAGES};
use super::language::Language;
use super::orchestrate::{Tester, Verdict};
use super::prompts::Prompt;
use super::record::Record;
use super::sandbox::{Limits, Options, Sandbox};
use anyhow::{Context, Result};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Semaphore;

/// Runs tests as soon as there are some.
#[derive(Clone)]
pub struct SandboxTester(Arc<Inner>);

struct Inner {
    /// Made at the first test, since it runs a program to see what the machine gives; an error is why there is none.
    sandbox: OnceLock<Result<Sandbox, String>>,
    /// Takes the code out of an answer.
    extract: Mutex<Pipeline>,
    /// As many runs at a time as there are processors.
    permits: Semaphore,
}

impl SandboxTester {
    /// A tester that has run nothing yet.
    ///
    /// # Errors
    /// None with the stages that there are.
    pub fn new() -> Result<Self> {
        let skip = STAGES.iter().map(|stage| stage.name).filter(|name| *name != "extract").map(str::to_owned);
        let extract = Pipeline::new(&CleanConfig { skip: skip.collect(), ..CleanConfig::default() })?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(SandboxTester(Arc::new(Inner {
            sandbox: OnceLock::new(),
            extract: Mutex::new(extract),
            permits: Semaphore::new(processors),
        })))
    }

    /// Why tests were not run, if some should have been.
    pub fn problem(&self) -> Option<&str> {
        self.0.sandbox.get()?.as_ref().err().map(String::as_str)
    }

    /// The tester as a function.
    pub fn tester(&self) -> Tester {
        let inner = Arc::clone(&self.0);
        Arc::new(move |prompt, answer| {
            let (inner, prompt, answer) = (Arc::clone(&inner), prompt.clone(), answer.to_owned());
            Box::pin(async move {
                let _permit = inner.permits.acquire().await?;
                let work = Arc::clone(&inner);
                tokio::task::spawn_blocking(move || work.run(&prompt, &answer))
                    .await
                    .context("a test run failed")?
            })
        })
    }
}

impl Inner {
    fn run(&self, prompt: &Prompt, answer: &str) -> Result<Verdict> {
        let language = prompt.language.as_deref().map_or(Some(Language::Python), Language::from_name);
        if language != Some(Language::Python) {
            return Ok(None);
        }
        let sandbox =
            self.sandbox.get_or_init(|| Sandbox::new(Options::default()).map_err(|error| error.to_string()));
        let Ok(sandbox) = sandbox else { return Ok(None) };
        let mut record = Record::answer("", prompt.prompt.clone(), answer);
        record.language = Some(Language::Python.name().to_owned());
        let outcome = self.extract.lock().unwrap_or_else(PoisonError::into_inner).clean_one(record);
        let Outcome::Kept(Record { response: Some(code), .. }) = outcome else { return Ok(Some("fail")) };
        let verdict = sandbox.run(&code, prompt.tests.as_deref(), &Limits::default())?;
        Ok(Some(verdict.verdict.name()))
    }
}
