//! The loop of a run: as many samples at a time as the teachers can use, until none is left.

use super::{Ended, Event, Progress};
use crate::foundry::budget::Amount;
use crate::foundry::orchestrate::{Engine, Gate, Tester, Unanswered, Unit, solve};
use crate::foundry::store::{Key, Status, StoredPrompt};
use anyhow::{Context, Result, anyhow};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often a run is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Prompts taken from the store at a time.
const PAGE: usize = 256;

/// Waits until the run is asked to end.
pub(super) async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
    }
}

/// A run under way.
pub(super) struct Run {
    pub(super) engine: Arc<Engine>,
    pub(super) teachers: usize,
    pub(super) judge: Option<usize>,
    pub(super) tester: Arc<dyn Tester>,
    pub(super) samples: u32,
}

impl Run {
    /// Asks until all samples are settled, or the run has to end.
    pub(super) async fn until_done(
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
        // The limit that had no room for a sample.
        let mut passed_over = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if stop.load(Ordering::Relaxed) && ended.is_none() {
                self.end(&mut ended, Ended::Stopped);
                observe(Event::Stopping);
            }
            while ended.is_none() && tasks.len() < width {
                let Some(Open { content, unit, copies }) = queue.next()? else { break };
                let engine = Arc::clone(&self.engine);
                let (teachers, judge, tester) = (self.teachers, self.judge, Arc::clone(&self.tester));
                tasks.spawn(async move {
                    let outcome = solve(&engine, teachers, judge, tester.as_ref(), &unit).await?;
                    let failed = outcome.failure.is_some();
                    engine.store.settle(content, unit.sample, outcome).await.map_err(Unanswered::Store)?;
                    Ok((failed, copies))
                });
            }
            tokio::select! {
                joined = tasks.join_next() => {
                    let Some(joined) = joined else { break };
                    let result: Result<(bool, u64), Unanswered> = joined.context("a task of the run failed")?;
                    match result {
                        Ok((failed, copies)) => {
                            progress.settled += copies;
                            *(if failed { &mut progress.failed } else { &mut progress.done }) += copies;
                        }
                        Err(Unanswered::Store(error)) => {
                            self.engine.stop();
                            while tasks.join_next().await.is_some() {}
                            return Err(error);
                        }
                        Err(Unanswered::Stopped) => {}
                        // A smaller one may still have room.
                        Err(Unanswered::Exhausted(limit)) if self.engine.can_ask() => passed_over = Some(limit),
                        Err(Unanswered::Exhausted(limit)) => self.end(&mut ended, Ended::Budget(limit)),
                        Err(Unanswered::Dead(why)) => self.end(&mut ended, Ended::Teacher(why)),
                        Err(Unanswered::Failed(failure)) => return Err(anyhow!("{failure}")),
                        Err(Unanswered::Busy) => {}
                    }
                }
                _ = tick.tick() => self.look(&mut progress, begin, observe),
            }
        }
        self.look(&mut progress, begin, observe);
        Ok((progress, ended.or(passed_over.map(Ended::Budget))))
    }

    fn end(&self, ended: &mut Option<Ended>, why: Ended) {
        self.engine.stop();
        ended.get_or_insert(why);
    }

    fn look(&self, progress: &mut Progress, begin: Instant, observe: &mut dyn FnMut(Event)) {
        self.engine.warnings().into_iter().for_each(|text| observe(Event::Warning(text)));
        progress.elapsed = begin.elapsed();
        progress.spent = self.engine.budget.spent();
        progress.teachers = self.engine.gates.iter().map(Gate::report).collect();
        observe(Event::Progress(progress.clone()));
    }
}

/// The samples that are not settled, in order.
struct Queue<'a> {
    engine: &'a Engine,
    samples: u32,
    position: i64,
    units: VecDeque<Open>,
}

/// A sample that is not settled.
struct Open {
    content: Key,
    unit: Unit,
    /// Prompts that it is a sample of.
    copies: u64,
}

impl Queue<'_> {
    fn next(&mut self) -> Result<Option<Open>> {
        if self.units.is_empty() {
            let page = self.engine.store.open_prompts(self.position, self.samples, PAGE)?;
            for StoredPrompt { position, content, copies, prompt } in page {
                self.position = position;
                let settled = self.engine.store.settled(content)?;
                let open = (0..self.samples).filter(|sample| !settled.contains(sample));
                let open = open.map(|sample| Open {
                    content,
                    unit: Unit { prompt: prompt.clone(), sample },
                    copies,
                });
                self.units.extend(open);
            }
        }
        Ok(self.units.pop_front())
    }
}
