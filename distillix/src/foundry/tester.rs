//! Runs the tests of prompts on answers, in the sandbox.

use super::clean::{CleanConfig, Outcome, Pipeline, STAGES};
use super::language::Language;
use super::orchestrate::{Tester, Verdict};
use super::prompts::Prompt;
use super::record::Record;
use super::sandbox::{Limits, Options, Sandbox};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Semaphore;

/// Runs tests as soon as there are some.
#[derive(Clone)]
pub struct SandboxTester(Arc<Inner>);

struct Inner {
    /// Made at the first test, since it runs a program to see what the machine gives; an error is why there is none.
    sandbox: OnceLock<Result<Sandbox, String>>,
    limits: Limits,
    /// Takes the code out of an answer.
    extract: Mutex<Pipeline>,
    /// As many runs at a time as there are processors.
    permits: Semaphore,
}

impl SandboxTester {
    /// A tester that has run nothing yet, with the time limit of the stage `execute`.
    ///
    /// # Errors
    /// When that is none that a sandbox takes.
    pub fn new(config: &CleanConfig) -> Result<Self> {
        let skip = STAGES.iter().map(|stage| stage.name).filter(|name| *name != "extract").map(str::to_owned);
        let extract = Pipeline::new(&CleanConfig { skip: skip.collect(), ..CleanConfig::default() })?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(SandboxTester(Arc::new(Inner {
            sandbox: OnceLock::new(),
            limits: config.execute_limits()?,
            extract: Mutex::new(extract),
            permits: Semaphore::new(processors),
        })))
    }
}

impl Tester for SandboxTester {
    fn problem(&self, prompt: &Prompt) -> Option<String> {
        if is_python(prompt) { self.0.sandbox().as_ref().err().cloned() } else { None }
    }

    fn test(&self, prompt: &Prompt, answer: &str) -> BoxFuture<'static, Result<Verdict>> {
        let (inner, prompt, answer) = (Arc::clone(&self.0), prompt.clone(), answer.to_owned());
        Box::pin(async move {
            let _permit = inner.permits.acquire().await?;
            let work = Arc::clone(&inner);
            tokio::task::spawn_blocking(move || work.run(&prompt, &answer))
                .await
                .context("a test run failed")?
        })
    }
}

/// Whether the tests of a prompt are Python.
fn is_python(prompt: &Prompt) -> bool {
    let language = prompt.language.as_deref().map_or(Some(Language::Python), Language::from_name);
    language == Some(Language::Python)
}

impl Inner {
    fn sandbox(&self) -> &Result<Sandbox, String> {
        self.sandbox.get_or_init(|| Sandbox::new(Options::default()).map_err(|error| error.to_string()))
    }

    fn run(&self, prompt: &Prompt, answer: &str) -> Result<Verdict> {
        if !is_python(prompt) {
            return Ok(None);
        }
        let Ok(sandbox) = self.sandbox() else { return Ok(None) };
        let mut record = Record::answer("", prompt.prompt.clone(), answer);
        record.language = Some(Language::Python.name().to_owned());
        let outcome = self.extract.lock().unwrap_or_else(PoisonError::into_inner).clean_one(record);
        let Outcome::Kept(Record { response: Some(code), .. }) = outcome else { return Ok(Some("fail")) };
        let verdict = sandbox.run(&code, prompt.tests.as_deref(), &self.limits)?;
        Ok(Some(verdict.verdict.name()))
    }
}
