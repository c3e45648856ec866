//! A whole run: prompts to teachers, answers into the store.

mod prepare;
mod run;

use super::budget::{Amount, Budget, Limits};
use super::config::FoundryConfig;
use super::orchestrate::{Engine, GateReport, Tester, chooses, outcomes_a_prompt};
use super::prompts::Prompt;
use super::store::{Key, Status, Store};
use anyhow::{Result, bail, ensure};
use prepare::{answers_a_prompt, check_budget, check_settings, gates, settings};
use run::{Run, stopped};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What a run needs to know beside its prompts.
pub struct Options {
    /// Settings, teachers included.
    pub config: FoundryConfig,
    /// Where the store is.
    pub store: PathBuf,
    /// Try what failed for good again.
    pub retry_failed: bool,
    /// Go on with a store that was made with other settings.
    pub allow_changes: bool,
    /// Runs a prompt's tests.
    pub tester: Arc<dyn Tester>,
    /// Set, it ends the run once the requests under way are done.
    pub stop: Arc<AtomicBool>,
}

/// What happens.
pub enum Event {
    /// The store is open, and the run begins.
    Begin {
        /// Prompts.
        prompts: u64,
        /// Lines left out because they are the same as an earlier one.
        copies: u64,
        /// How far the set is.
        status: Status,
    },
    /// Something that is good to know.
    Warning(String),
    /// How it goes; several times a second.
    Progress(Progress),
    /// The run was asked to end, and waits for the requests under way.
    Stopping,
}

/// How a run goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Samples that are wanted.
    pub wanted: u64,
    /// Samples answered, those of earlier runs included.
    pub done: u64,
    /// Samples failed for good, those of earlier runs included.
    pub failed: u64,
    /// Samples settled in this run.
    pub settled: u64,
    /// Since the first request could be sent.
    pub elapsed: Duration,
    /// What was spent, in earlier runs too.
    pub spent: Amount,
    /// What each teacher did in this run.
    pub teachers: Vec<GateReport>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How far the set is.
    pub status: Status,
    /// The run itself.
    pub progress: Progress,
    /// Why it ended before all samples were settled.
    pub ended: Option<Ended>,
}

/// Why a run ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// A limit left no room for the samples that are left.
    Budget(String),
    /// A teacher is of no use.
    Teacher(String),
}

/// Answers `prompts`, as far as that is not done already. `None` if the run was asked to end before its teachers were reached:
/// nothing was done then.
///
/// # Errors
/// When the settings or prompts are not valid, no teacher answers, or the store does not work.
pub async fn generate(
    options: Options,
    prompts: impl Iterator<Item = Result<Prompt>>,
    observe: &mut dyn FnMut(Event),
) -> Result<Option<Summary>> {
    let Options { config, store, retry_failed, allow_changes, tester, stop } = options;
    config.validate()?;
    let teachers = config.resolved_teachers()?;
    ensure!(!teachers.is_empty(), "there is no teacher: give --teacher, or foundry.teachers in a config");
    // A run that cannot begin leaves no store behind.
    let (mut gates, judge) = tokio::select! {
        gates = gates(&config, observe) => gates?,
        () = stopped(&stop) => return Ok(None),
    };
    let limits = Limits { cost: config.max_cost, tokens: config.max_tokens, requests: config.max_requests };
    check_budget(&limits, &gates, config.max_output_tokens)?;
    let store = Store::open(&store)?;
    let settings = settings(&config, &teachers);
    if !allow_changes {
        check_settings(&store, &settings)?;
    }
    let plan = Key::of("plan", &settings)?;
    let address =
        |prompt: &Prompt| Key::of("outcome", &(plan.hex(), &prompt.prompt, &prompt.tests, &prompt.language));
    let mut problem = None;
    let prompts = prompts.inspect(|prompt| {
        if let (None, Ok(prompt)) = (&problem, prompt)
            && prompt.tests.is_some()
        {
            problem = tester.problem(prompt);
        }
    });
    let (count, copies) = store.set_prompts(prompts, address)?;
    ensure!(count > 0, "there are no prompts");
    // Before anything is paid for.
    if let Some(why) = problem {
        if chooses(config.strategy) && judge.is_none() {
            bail!(
                "answers cannot be chosen by their tests: {why}. Name a --judge to choose instead, or take another --strategy"
            );
        }
        observe(Event::Warning(format!("tests will not be run: {why}")));
    }
    let samples = outcomes_a_prompt(&config);
    store.set_meta("samples", &samples.to_string())?;
    store.set_meta("answers", &answers_a_prompt(&config, teachers.len()).to_string())?;
    store.set_meta("settings", &settings.to_string())?;
    if retry_failed {
        store.forget_failures()?;
    }
    let status = store.reader()?.status()?;
    gates.iter_mut().for_each(|gate| gate.recall(&status.spending));
    let budget = Budget::new(limits, status.spent().0);
    observe(Event::Begin { prompts: count, copies, status: status.clone() });
    let engine = Arc::new(Engine::new(gates, store, budget, config));
    let run = Run { engine: Arc::clone(&engine), teachers: teachers.len(), judge, tester, samples };
    let (progress, ended) = run.until_done(&status, &stop, observe).await?;
    engine.close().await;
    let status = engine.store.reader()?.status()?;
    // A signal while the last requests were under way cut nothing short.
    let ended = ended.filter(|ended| *ended != Ended::Stopped || status.left() > 0);
    Ok(Some(Summary { status, progress, ended }))
}
