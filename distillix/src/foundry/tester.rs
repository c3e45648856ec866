//! Runs the tests of prompts on answers, in the sandbox.

use super::clean::{CleanConfig, Outcome, Pipeline};
use super::language::Language;
use super::orchestrate::{Tester, UNVERIFIED, Verdict};
use super::prompts::Prompt;
use super::record::Record;
use super::sandbox::{Limits, Options, Sandbox};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use std::borrow::Cow;
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
    /// The runs in which the sandbox failed, and why the last one did.
    failures: Mutex<(u64, String)>,
    options: Options,
}

impl SandboxTester {
    /// A tester that has run nothing yet, with a sandbox of these options and the time limit of the stage `execute`.
    ///
    /// # Errors
    /// When that is none that a sandbox takes.
    pub fn new(config: &CleanConfig, options: Options) -> Result<Self> {
        let extract = Pipeline::new(&CleanConfig::default().only("extract"))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(SandboxTester(Arc::new(Inner {
            sandbox: OnceLock::new(),
            limits: config.execute_limits()?,
            extract: Mutex::new(extract),
            permits: Semaphore::new(processors),
            failures: Mutex::default(),
            options,
        })))
    }

    /// How many answers could not be tested because the sandbox failed, and why, if there were some.
    pub fn unverified(&self) -> Option<String> {
        let (count, why) = &*self.0.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (*count > 0).then(|| format!("{count} answers are unverified, their tests could not be run: {why}"))
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

/// What is run to test an answer: its code, or where that goes on within its prompt's function, as HumanEval's solutions do, both.
pub(super) fn program<'a>(prompt: Option<&str>, code: &'a str) -> Cow<'a, str> {
    let first = code.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match prompt {
        Some(prompt) if first.starts_with([' ', '\t']) => format!("{}\n{code}", prompt.trim_end()).into(),
        _ => code.into(),
    }
}

/// Whether the tests of a prompt are Python.
fn is_python(prompt: &Prompt) -> bool {
    let language = prompt.language.as_deref().map_or(Some(Language::Python), Language::from_name);
    language == Some(Language::Python)
}

impl Inner {
    fn sandbox(&self) -> &Result<Sandbox, String> {
        self.sandbox.get_or_init(|| Sandbox::new(self.options.clone()).map_err(|error| error.to_string()))
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
        match sandbox.run(&program(Some(&prompt.prompt), &code), prompt.tests.as_deref(), &self.limits) {
            Ok(verdict) => Ok(Some(verdict.verdict.name())),
            // Answers are paid for; that this machine cannot check one now must not end the run.
            Err(error) => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                *failures = (failures.0 + 1, error.to_string());
                Ok(Some(UNVERIFIED))
            }
        }
    }
}
