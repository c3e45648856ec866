//! A whole run: prompts to teachers, answers into the store.

use super::budget::{Amount, Budget, Limits};
use super::config::{FoundryConfig, Price, TeacherConfig, TeacherKind};
use super::orchestrate::{Engine, Gate, GateReport, Tester, Unanswered, Unit, outcomes_a_prompt, solve};
use super::prompts::Prompt;
use super::store::{Key, Status, Store, StoredPrompt};
use super::teacher::{FailureKind, Offer, connect};
use crate::smelter::config::{differences, suggestion};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

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
    pub tester: Tester,
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
    /// A limit was reached.
    Budget(String),
    /// A teacher is of no use.
    Teacher(String),
}

/// How often a run is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Prompts taken from the store at a time.
const PAGE: usize = 256;

/// Answers `prompts`, as far as that is not done already.
///
/// # Errors
/// When the settings or prompts are not valid, no teacher answers, or the store does not work.
pub async fn generate(
    options: Options,
    prompts: impl Iterator<Item = Result<Prompt>>,
    observe: &mut dyn FnMut(Event),
) -> Result<Summary> {
    let Options { config, store, retry_failed, allow_changes, tester, stop } = options;
    config.validate()?;
    let teachers = config.resolved_teachers()?;
    ensure!(!teachers.is_empty(), "there is no teacher: give --teacher, or foundry.teachers in a config");
    let store = Store::open(&store)?;
    let settings = settings(&config, &teachers);
    if !allow_changes {
        check_settings(&store, &settings)?;
    }
    let (gates, judge) = gates(&config, teachers.clone(), observe).await?;
    let limits = Limits { cost: config.max_cost, tokens: config.max_tokens, requests: config.max_requests };
    check_budget(&limits, &gates, config.max_output_tokens)?;
    let plan = Key::of("plan", &settings)?;
    let address =
        |prompt: &Prompt| Key::of("outcome", &(plan.hex(), &prompt.prompt, &prompt.tests, &prompt.language));
    let (count, copies) = store.set_prompts(prompts, address)?;
    ensure!(count > 0, "there are no prompts");
    let samples = outcomes_a_prompt(&config);
    store.set_meta("samples", &samples.to_string())?;
    store.set_meta("answers", &answers_a_prompt(&config, teachers.len()).to_string())?;
    store.set_meta("settings", &settings.to_string())?;
    if retry_failed {
        store.forget_failures()?;
    }
    let status = store.reader()?.status()?;
    let budget = Budget::new(limits, status.spent().0);
    observe(Event::Begin { prompts: count, copies, status: status.clone() });
    let engine = Arc::new(Engine::new(gates, store, budget, config));
    let run = Run { engine: Arc::clone(&engine), teachers: teachers.len(), judge, tester, samples };
    let (progress, ended) = run.until_done(&status, &stop, observe).await?;
    engine.close().await;
    let status = engine.store.reader()?.status()?;
    Ok(Summary { status, progress, ended })
}

/// Records that a prompt can have.
fn answers_a_prompt(config: &FoundryConfig, teachers: usize) -> u64 {
    let each = if config.strategy == super::config::Strategy::All { teachers as u64 } else { 1 };
    u64::from(outcomes_a_prompt(config)) * each
}

/// The settings that decide what is asked and what is kept. Rates, limits and prices are not among them.
fn settings(config: &FoundryConfig, teachers: &[TeacherConfig]) -> Value {
    let teachers: Vec<Value> = teachers
        .iter()
        .map(|teacher| {
            json!({"name": teacher.name(), "kind": teacher.kind, "model": teacher.model, "api": teacher.api,
                "extra": teacher.extra, "agent": teacher.agent, "weight": teacher.weight})
        })
        .collect();
    json!({
        "teachers": teachers, "strategy": config.strategy, "samples": config.samples, "judge": config.judge,
        "agreement": config.agreement, "system": config.system, "sampling": config.sampling(0),
    })
}

/// Refuses to mix answers to different settings by accident.
fn check_settings(store: &Store, settings: &Value) -> Result<()> {
    if let Some(before) = store.meta("settings")? {
        let before: Value = serde_json::from_str(&before)?;
        let mut found = Vec::new();
        differences("", &before, settings, &mut found);
        ensure!(
            found.is_empty(),
            "the store {} was made with other settings: {}. Nothing is lost: take another --store, or go on in this one with \
             --allow-changes, which asks again what the new settings need and keeps the old answers",
            store.path().display(),
            found.join("; ")
        );
    }
    Ok(())
}

/// The ways to all teachers, and the index of the judge's.
async fn gates(
    config: &FoundryConfig,
    mut teachers: Vec<TeacherConfig>,
    observe: &mut dyn FnMut(Event),
) -> Result<(Vec<Gate>, Option<usize>)> {
    let judge = match &config.judge {
        None => None,
        Some(name) => match teachers.iter().position(|teacher| teacher.name() == *name) {
            Some(at) => Some(at),
            None => {
                let judge = TeacherConfig::parse(name, &config.defaults).with_context(|| {
                    format!("foundry.judge is {name:?}: neither the name of a teacher nor KIND:URL#MODEL")
                })?;
                teachers.push(judge);
                Some(teachers.len() - 1)
            }
        },
    };
    let mut gates = Vec::new();
    let mut silent = Vec::new();
    for teacher in teachers {
        let connection = connect(&teacher, Duration::from_secs_f64(config.connect_timeout_s))?;
        let label = teacher.label();
        let mut offer = Offer::default();
        match connection.offers().await {
            Ok(offers) => match offers.iter().find(|offer| offer.model == teacher.model) {
                Some(found) => offer = found.clone(),
                // Servers of the openai kind answer to names that they do not list.
                None if teacher.kind == TeacherKind::Opencode => {
                    let names: Vec<&str> = offers.iter().map(|offer| offer.model.as_str()).collect();
                    let near = if names.is_empty() {
                        "it has none".to_owned()
                    } else {
                        suggestion(&teacher.model, &names)
                    };
                    bail!("{} has no model {}, {near}", teacher.name(), teacher.model);
                }
                None => {}
            },
            Err(failure) if failure.kind.is_fatal() && failure.kind != FailureKind::NotFound => {
                bail!("{label}: {failure}");
            }
            Err(failure) if failure.kind == FailureKind::NotFound && teacher.agent.is_some() => {
                bail!("{label}: {failure}");
            }
            Err(failure) if matches!(failure.kind, FailureKind::Connection | FailureKind::Timeout) => {
                silent.push(format!("{label} does not answer: {failure}"));
            }
            // Some servers have no such list.
            Err(failure) => observe(Event::Warning(format!("{label} does not list its models: {failure}"))),
        }
        gates.push(Gate::new(teacher, connection, offer, config.breaker));
    }
    if silent.len() == gates.len() || config.strategy == super::config::Strategy::One && !silent.is_empty() {
        bail!("{}", silent.join("; "));
    }
    silent.into_iter().for_each(|text| observe(Event::Warning(text)));
    Ok((gates, judge))
}

/// A limit can be kept only where the worst case is known.
fn check_budget(limits: &Limits, gates: &[Gate], max_output_tokens: u32) -> Result<()> {
    for gate in gates {
        let label = gate.config.label();
        if limits.cost.is_some() && gate.price.is_none() {
            let free = Price { input: 0.0, output: 0.0 };
            let key = json!({"price": free});
            bail!(
                "--max-cost cannot be kept: nobody says what {label} costs. Give its price in the config (foundry.teachers or \
                 foundry.defaults, as in {key} for a free one)"
            );
        }
        if (limits.cost.is_some() || limits.tokens.is_some())
            && gate.longest_answer(max_output_tokens).is_none()
        {
            bail!(
                "--max-cost and --max-tokens cannot be kept: the server does not say how long an answer of {label} can be. Set \
                 limit.output of the model in the server's config, or use --max-requests"
            );
        }
    }
    Ok(())
}

/// A run under way.
struct Run {
    engine: Arc<Engine>,
    teachers: usize,
    judge: Option<usize>,
    tester: Tester,
    samples: u32,
}

impl Run {
    async fn until_done(
        &self,
        before: &Status,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(Progress, Option<Ended>)> {
        let begin = Instant::now();
        // Enough that no teacher waits for work while some samples wait for a retry.
        let width: usize =
            16 + 2 * self.engine.gates.iter().map(|gate| gate.config.concurrency).sum::<usize>();
        let mut queue =
            Queue { engine: &self.engine, samples: self.samples, position: -1, units: VecDeque::new() };
        let mut tasks = JoinSet::new();
        let mut progress = Progress {
            wanted: before.wanted,
            done: before.done,
            failed: before.failed,
            settled: 0,
            elapsed: Duration::ZERO,
            spent: Amount::default(),
            teachers: Vec::new(),
        };
        let mut ended = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while ended.is_none() && tasks.len() < width {
                let Some((content, unit)) = queue.next()? else { break };
                let engine = Arc::clone(&self.engine);
                let (teachers, judge, tester) = (self.teachers, self.judge, Arc::clone(&self.tester));
                tasks.spawn(async move {
                    let outcome = solve(&engine, teachers, judge, &tester, &unit).await?;
                    let failed = outcome.failure.is_some();
                    engine.store.settle(content, unit.sample, outcome).await.map_err(Unanswered::Store)?;
                    Ok(failed)
                });
            }
            tokio::select! {
                joined = tasks.join_next() => {
                    let Some(joined) = joined else { break };
                    let result: Result<bool, Unanswered> = joined.context("a task of the run failed")?;
                    match result {
                        Ok(failed) => {
                            progress.settled += 1;
                            if failed { progress.failed += 1 } else { progress.done += 1 }
                        }
                        Err(Unanswered::Store(error)) => {
                            self.engine.stop();
                            while tasks.join_next().await.is_some() {}
                            return Err(error);
                        }
                        Err(Unanswered::Stopped) => {}
                        Err(Unanswered::Exhausted(limit)) => self.end(&mut ended, Ended::Budget(limit)),
                        Err(Unanswered::Dead(why)) => self.end(&mut ended, Ended::Teacher(why)),
                        Err(Unanswered::Failed(failure)) => return Err(anyhow!("{failure}")),
                        Err(Unanswered::Busy) => {}
                    }
                }
                _ = tick.tick() => {
                    if stop.load(Ordering::Relaxed) && ended.is_none() {
                        self.end(&mut ended, Ended::Stopped);
                        observe(Event::Stopping);
                    }
                    self.look(&mut progress, begin);
                    observe(Event::Progress(progress.clone()));
                }
            }
        }
        self.look(&mut progress, begin);
        observe(Event::Progress(progress.clone()));
        Ok((progress, ended))
    }

    fn end(&self, ended: &mut Option<Ended>, why: Ended) {
        self.engine.stop();
        ended.get_or_insert(why);
    }

    fn look(&self, progress: &mut Progress, begin: Instant) {
        progress.elapsed = begin.elapsed();
        progress.spent = self.engine.budget.spent();
        progress.teachers = self.engine.gates.iter().map(Gate::report).collect();
    }
}

/// The samples that are not settled, in order.
struct Queue<'a> {
    engine: &'a Engine,
    samples: u32,
    position: i64,
    units: VecDeque<(Key, Unit)>,
}

impl Queue<'_> {
    fn next(&mut self) -> Result<Option<(Key, Unit)>> {
        if self.units.is_empty() {
            let page = self.engine.store.open_prompts(self.position, self.samples, PAGE)?;
            for StoredPrompt { position, content, prompt, .. } in page {
                self.position = position;
                let settled = self.engine.store.settled(content)?;
                let open = (0..self.samples).filter(|sample| !settled.contains(sample));
                let unit =
                    |sample| (content, Unit { position: position as u64, prompt: prompt.clone(), sample });
                self.units.extend(open.map(unit));
            }
        }
        Ok(self.units.pop_front())
    }
}
