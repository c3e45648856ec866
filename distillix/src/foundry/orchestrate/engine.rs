//! Asks teachers: what is known already is not asked again, what may pass is tried again, what it costs is accounted for.

use super::backoff::backoff;
use super::gate::{Gate, Pass, Shut};
use crate::foundry::budget::{Amount, Budget, Exhausted};
use crate::foundry::config::FoundryConfig;
use crate::foundry::store::{Key, Store, Stored};
use crate::foundry::teacher::{Answer, Failure, FailureKind, Request, Spent, Usage};
use anyhow::Result;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
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
}

/// An answer that is in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its address.
    pub key: Key,
    /// Its text.
    pub text: String,
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
    /// The budget has no room.
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
        Engine { gates, store, budget, config, flying: Mutex::default(), stop: watch::Sender::new(false) }
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

    /// The answer of the teacher `gate`, stored or new. Without `patience` a teacher that is left alone is not waited for.
    ///
    /// # Errors
    /// As [`Unanswered`] says.
    pub async fn ask(
        &self,
        gate: usize,
        request: &Request,
        sample: u32,
        patience: bool,
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
        let mut tries = 0;
        loop {
            let worst = gate.worst(request);
            let pass = self.unless_stopped(gate.enter(worst.tokens(), patience)).await?;
            let pass = pass.map_err(|shut| match shut {
                Shut::Busy => Unanswered::Busy,
                Shut::Dead(why) => Unanswered::Dead(format!("{}: {why}", gate.config.label())),
            })?;
            let is_probe = pass.is_probe();
            let failure = match self.send(gate, pass, key, request, worst, tries).await? {
                Ok(text) => return Ok(Asked { key, text }),
                Err(failure) => failure,
            };
            if failure.kind.is_fatal() {
                return Err(Unanswered::Dead(format!("{}: {failure}", gate.config.label())));
            }
            // That a server is not well yet is no fault of the prompt that happened to try it.
            tries += u32::from(!is_probe || !failure.kind.is_outage());
            if tries > failure.kind.retries(self.config.retries) {
                return Err(Unanswered::Failed(failure));
            }
            let wait = backoff(tries.max(1), self.config.backoff_s, self.config.max_backoff_s);
            self.unless_stopped(tokio::time::sleep(wait)).await?;
        }
    }

    /// Sends one request and stores what comes back.
    async fn send(
        &self,
        gate: &Gate,
        pass: Pass<'_>,
        key: Key,
        request: &Request,
        worst: Amount,
        tries: u32,
    ) -> Result<Result<String, Failure>, Unanswered> {
        let reserved = self.unless_stopped(self.budget.reserve(worst)).await?;
        let reserved = reserved.map_err(|Exhausted(limit)| Unanswered::Exhausted(limit))?;
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
        let result = tokio::time::timeout(timeout, gate.teacher.ask(request)).await;
        let result = result.unwrap_or_else(|_| {
            let message = format!("no whole answer in {:.0} s", timeout.as_secs_f64());
            Err(Failure::new(FailureKind::Timeout, message))
        });
        match result {
            Ok(answer) => {
                let spent = amount(gate, worst, answer.usage, answer.cost);
                let text = answer.text.clone();
                pass.done(Ok(()), answer.usage.map(|_| spent.tokens()));
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
                    Spent::Known(usage, cost) => amount(gate, worst, Some(usage), cost),
                };
                let excused = pass.is_probe() && failure.kind.is_outage();
                let for_good = !failure.kind.is_fatal()
                    && tries + u32::from(!excused) > failure.kind.retries(self.config.retries);
                pass.done(Err(&failure), (failure.spent != Spent::Unknown).then(|| spent.tokens()));
                let stored = self.store.failed(flight, key, &failure, for_good, spent).await;
                reserved.settle(spent);
                stored.map_err(Unanswered::Store)?;
                gate.count_failure(for_good);
                Ok(Err(failure))
            }
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

    /// The longest time that a request may take.
    pub fn longest_request(&self) -> Duration {
        self.config.timeout(self.config.max_output_tokens)
    }
}

/// What a request used; where the server does not count, its worst case.
fn amount(gate: &Gate, worst: Amount, usage: Option<Usage>, cost: Option<f64>) -> Amount {
    let Some(usage) = usage else { return worst };
    gate.learn(worst, usage);
    let cost = cost.unwrap_or_else(|| gate.cost(usage));
    Amount { requests: 1, input: usage.input, output: usage.output, cost }
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
