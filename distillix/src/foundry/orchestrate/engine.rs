//! Asks teachers: what is known already is not asked again, what may pass is tried again, what it costs is accounted for.

use super::backoff::backoff;
use super::gate::{Gate, Pass, Shut};
use super::tries::{Next, Tries};
use crate::foundry::budget::{Amount, Budget, Exhausted};
use crate::foundry::config::FoundryConfig;
use crate::foundry::store::{Key, Store, Stored};
use crate::foundry::teacher::{Answer, Failure, FailureKind, Message, Request, Spent, Usage};
use anyhow::Result;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, PoisonError};
use tokio::sync::{Notify, watch};

/// Everything that asking needs; shared by all prompts under way.
pub struct Engine {
    /// The teachers; the judge, if there is one, after them.
    pub gates: Vec<Gate>,
    /// Where answers are kept.
    pub store: Store,
    /// What may be spent.
    pub budget: Budget,
    /// Settings.
    pub config: FoundryConfig,
    flying: Mutex<HashMap<Key, Arc<Notify>>>,
    stop: watch::Sender<bool>,
    warnings: Mutex<Vec<String>>,
    judge_lost: Once,
}

/// An answer that is in the store.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// Its address.
    pub(super) key: Key,
    /// Its text.
    pub(super) text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The request failed for good, which is stored.
    Failed(Failure),
    /// The teacher is left alone for now, and was not to be waited for.
    Busy,
    /// The teacher is of no use any more.
    Dead(String),
    /// The budget has no room for this request.
    Exhausted(String),
    /// The run ends.
    Stopped,
    /// The store does not work.
    Store(anyhow::Error),
}

/// What a request is found by.
#[derive(Serialize)]
struct Address<'a> {
    teacher: String,
    model: &'a str,
    kind: &'a crate::foundry::config::TeacherKind,
    api: &'a crate::foundry::config::Api,
    extra: &'a serde_json::Map<String, serde_json::Value>,
    agent: &'a Option<String>,
    request: &'a Request,
    sample: u32,
}

impl Engine {
    /// An engine of these parts.
    pub fn new(gates: Vec<Gate>, store: Store, budget: Budget, config: FoundryConfig) -> Self {
        let (flying, warnings, stop) = (Mutex::default(), Mutex::default(), watch::Sender::new(false));
        Engine { gates, store, budget, config, flying, stop, warnings, judge_lost: Once::new() }
    }

    /// Sends nothing more. Requests under way go on to their end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether [`Engine::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// The address of a request to the teacher `gate`.
    ///
    /// # Errors
    /// None that can occur with numbers that are finite.
    pub fn key(&self, gate: usize, request: &Request, sample: u32) -> Result<Key> {
        let config = &self.gates[gate].config;
        let address = Address {
            teacher: config.name(),
            model: &config.model,
            kind: &config.kind,
            api: &config.api,
            extra: &config.extra,
            agent: &config.agent,
            request,
            sample,
        };
        Key::of("request", &address)
    }

    fn warn(&self, text: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Says once that there is no judge any more.
    pub(super) fn lose_judge(&self, why: &str) {
        let text = || format!("the judge is of no use, so likeness chooses among answers: {why}");
        self.judge_lost.call_once(|| self.warn(text()));
    }

    /// What is good to know since the last call.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the budget has room for any request at all.
    pub fn can_ask(&self) -> bool {
        let messages = vec![Message::user("")];
        let smallest = Request { messages, sampling: self.config.sampling(0) };
        self.gates.iter().any(|gate| self.budget.room(gate.worst(&smallest)).is_ok())
    }

    /// The answer of the teacher `gate`, stored or new. Without patience, a teacher that is left alone is not waited for, and one
    /// that fails is tried once more and is busy then.
    ///
    /// # Errors
    /// As [`Unanswered`] says.
    pub(super) async fn ask(
        &self,
        gate: usize,
        request: &Request,
        sample: u32,
        tries: &mut Tries,
    ) -> Result<Asked, Unanswered> {
        let key = self.key(gate, request, sample).map_err(Unanswered::Store)?;
        // Equal requests at the same time are one.
        let _alone = self.alone(key).await?;
        match self.store.find(key).map_err(Unanswered::Store)? {
            Some(Stored::Answer { text, .. }) => return Ok(Asked { key, text }),
            Some(Stored::Failure(failure)) => return Err(Unanswered::Failed(failure)),
            None => {}
        }
        let gate = &self.gates[gate];
        let shut = |shut| match shut {
            Shut::Busy => Unanswered::Busy,
            Shut::Dead(why) => Unanswered::Dead(format!("{}: {why}", gate.config.label())),
        };
        for sent in 1.. {
            // Before it waits for its turn, which another may need.
            let worst = gate.worst(request);
            self.budget.room(worst).map_err(exhausted)?;
            let pass = self.unless_stopped(gate.enter(worst.tokens(), tries.patient)).await?.map_err(shut)?;
            let (failure, next) = match self.send(gate, pass, key, request, tries).await? {
                Ok(text) => return Ok(Asked { key, text }),
                Err(failed) => failed,
            };
            gate.alive().map_err(shut)?;
            match next {
                Next::Fail => return Err(Unanswered::Failed(failure)),
                Next::Again => {}
                Next::Retry(_) if !tries.patient && sent > 1 => break,
                Next::Retry(tries) => {
                    let wait = backoff(tries, self.config.backoff_s, self.config.max_backoff_s);
                    self.unless_stopped(tokio::time::sleep(wait)).await?;
                }
            }
        }
        Err(Unanswered::Busy)
    }

    /// Sends one request and stores what comes back.
    async fn send(
        &self,
        gate: &Gate,
        pass: Pass<'_>,
        key: Key,
        request: &Request,
        tries: &mut Tries,
    ) -> Result<Result<String, (Failure, Next)>, Unanswered> {
        // What was learned while this one waited counts.
        let reserved = self.unless_stopped(self.budget.reserve(|| gate.worst(request))).await?;
        let reserved = reserved.map_err(exhausted)?;
        let worst = reserved.worst();
        let begun = self.store.begin(&gate.config.name(), &gate.config.model, worst).await;
        let flight = match begun {
            Ok(flight) => flight,
            Err(error) => {
                reserved.settle(Amount::default());
                return Err(Unanswered::Store(error));
            }
        };
        let longest = gate.longest_answer(request.sampling.max_tokens);
        let longest =
            longest.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(request.sampling.max_tokens);
        let timeout = self.config.timeout(longest);
        let result = tokio::time::timeout(timeout, gate.teacher.ask(request, longest)).await;
        let result = result.unwrap_or_else(|_| {
            let message = format!("no whole answer in {:.0} s", timeout.as_secs_f64());
            Err(Failure::new(FailureKind::Timeout, message))
        });
        let used = |usage: Usage, cost: Option<f64>| {
            let cost = cost.unwrap_or_else(|| gate.cost(usage.input, usage.output));
            let used = Amount { requests: 1, input: usage.input, output: usage.output, cost };
            self.learn(gate, request, worst, used);
            used
        };
        match result {
            Ok(answer) => {
                let spent = answer.usage.map_or(worst, |usage| used(usage, answer.cost));
                let text = answer.text.clone();
                pass.answered(answer.usage.map(|_| spent.tokens()));
                let stored = self.store.answered(flight, key, charged(answer, spent), spent).await;
                reserved.settle(spent);
                stored.map_err(Unanswered::Store)?;
                gate.count_answer();
                Ok(Ok(text))
            }
            Err(failure) => {
                let spent = match failure.spent {
                    Spent::Nothing => Amount { requests: 1, ..Amount::default() },
                    Spent::Unknown => worst,
                    Spent::Known(usage, cost) => used(usage, cost),
                };
                let is_probe = pass.is_probe();
                let known = (failure.spent != Spent::Unknown).then(|| spent.tokens());
                let is_teachers = pass.failed(&failure, known, tries.is_first());
                let next = tries.next(&failure, is_probe, is_teachers, self.config.retries);
                let for_good = next == Next::Fail && gate.alive().is_ok();
                let stored = self.store.failed(flight, key, &failure, for_good, spent).await;
                reserved.settle(spent);
                stored.map_err(Unanswered::Store)?;
                gate.count_failure(for_good);
                Ok(Err((failure, next)))
            }
        }
    }

    /// Lets the teacher's next worst cases cover what one did not, and says so if a limit depends on it.
    fn learn(&self, gate: &Gate, request: &Request, worst: Amount, used: Amount) {
        if gate.learn(request, used) && self.budget.limits().is_short(worst, used) {
            let (label, set_aside, used) = (gate.config.label(), worst.in_words(), used.in_words());
            let text = format!(
                "a request to {label} used more than was set aside for it: {used}, where {set_aside} was the worst case. The next \
                 ones set aside as much; what was under way may pass a limit"
            );
            self.warn(text);
        }
    }

    /// Waits for `work`, unless the run ends first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Unanswered> {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(Unanswered::Stopped),
            done = work => Ok(done),
        }
    }

    /// Waits until no other asks the same.
    async fn alone(&self, key: Key) -> Result<Alone<'_>, Unanswered> {
        loop {
            let (left, notified);
            {
                let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
                match flying.get(&key) {
                    None => {
                        flying.insert(key, Arc::new(Notify::new()));
                        return Ok(Alone { engine: self, key });
                    }
                    Some(other) => {
                        left = Arc::clone(other);
                        // A waiter is known from the moment it is made, so that none is missed.
                        notified = left.notified();
                    }
                }
            }
            self.unless_stopped(notified).await?;
        }
    }

    /// Lets teachers tidy up.
    pub async fn close(&self) {
        for gate in &self.gates {
            gate.teacher.close().await;
        }
    }
}

fn exhausted(Exhausted(limit): Exhausted) -> Unanswered {
    Unanswered::Exhausted(limit)
}

/// The answer with its cost.
fn charged(answer: Answer, spent: Amount) -> Answer {
    Answer { cost: Some(spent.cost), ..answer }
}

/// The right to ask for one key.
struct Alone<'a> {
    engine: &'a Engine,
    key: Key,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut flying = self.engine.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = flying.remove(&self.key) {
            waiting.notify_waiters();
        }
    }
}
