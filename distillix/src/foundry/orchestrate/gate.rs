//! The way to one teacher: how many requests at a time, how many a minute, when not, and what each may cost.

use super::breaker::{Breaker, Health, Leave};
use super::bucket::Bucket;
use crate::foundry::budget::Amount;
use crate::foundry::config::{BreakerConfig, Price, TeacherConfig, TeacherKind};
use crate::foundry::teacher::{Failure, FailureKind, Offer, Request, Teacher, Usage};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A teacher, and the rules for asking it.
pub struct Gate {
    /// Its config.
    pub config: TeacherConfig,
    pub(super) teacher: Box<dyn Teacher>,
    /// What it costs, if that is known.
    pub price: Option<Price>,
    /// What the server says of the model.
    offer: Offer,
    permits: Semaphore,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    breaker: Breaker,
    state: Mutex<State>,
    /// Tokens that the server adds to a prompt, as far as is known.
    overhead: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The server asked to be left alone until then.
    paused: Option<Instant>,
    /// Why it is of no use any more.
    dead: Option<String>,
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// For now.
    Busy,
    /// For good.
    Dead(String),
}

/// Leave to send one request.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    leave: Leave<'a>,
    tokens: u64,
    _permit: SemaphorePermit<'a>,
}

/// What a teacher did so far in this run.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReport {
    /// Teacher and model.
    pub label: String,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed for good.
    pub failed: u64,
    /// Requests that failed and were sent again.
    pub retried: u64,
    /// How often its breaker opened and closed.
    pub breaker: (u64, u64),
    /// What keeps requests from it now.
    pub waits: Option<&'static str>,
}

impl Gate {
    /// The way to `teacher`, of which the server says `offer`.
    pub fn new(
        config: TeacherConfig,
        teacher: Box<dyn Teacher>,
        offer: Offer,
        breaker: BreakerConfig,
    ) -> Self {
        let now = Instant::now();
        // OpenCode lists models of unknown price as free.
        let listed = offer
            .price
            .filter(|price| config.kind != TeacherKind::Opencode || price.input > 0.0 || price.output > 0.0);
        let overhead = config.overhead_tokens.unwrap_or(match config.kind {
            TeacherKind::Openai => 64,
            TeacherKind::Opencode => 16_384,
        });
        Gate {
            price: config.price.or(listed),
            permits: Semaphore::new(config.concurrency),
            requests: config.requests_per_minute.map(|rate| Bucket::new(rate, now)),
            tokens: config.tokens_per_minute.map(|rate| Bucket::new(rate, now)),
            breaker: Breaker::new(breaker),
            state: Mutex::default(),
            overhead: AtomicU64::new(overhead),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            config,
            teacher,
            offer,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most tokens that an answer can have, as far as that is known.
    pub fn longest_answer(&self, asked: u32) -> Option<u64> {
        match self.config.kind {
            TeacherKind::Openai => {
                let extra = ["max_tokens", "max_completion_tokens"];
                let extra = extra.iter().filter_map(|key| self.config.extra.get(*key)?.as_u64()).max();
                Some(extra.unwrap_or(0).max(u64::from(asked)))
            }
            // The server's settings decide, not the request.
            TeacherKind::Opencode => self.offer.output.or(self.offer.context),
        }
    }

    /// The worst case of a request.
    pub(super) fn worst(&self, request: &Request) -> Amount {
        let output = self.longest_answer(request.sampling.max_tokens).unwrap_or(0);
        let input = request.prompt_bytes() + self.overhead.load(Ordering::Relaxed);
        let input = input.min(self.offer.context.unwrap_or(u64::MAX));
        Amount { requests: 1, input, output, cost: self.cost(Usage { input, output }) }
    }

    /// What a request cost that used so many tokens.
    pub(super) fn cost(&self, usage: Usage) -> f64 {
        self.price.map_or(0.0, |price| price.cost(usage.input, usage.output))
    }

    /// Takes in how many tokens a prompt had in truth.
    pub(super) fn learn(&self, worst: Amount, usage: Usage) {
        // The next worst case covers what this one did not.
        self.overhead.fetch_add(usage.input.saturating_sub(worst.input), Ordering::Relaxed);
    }

    /// Waits until a request may be sent. Without `patience`, a server that is left alone is not waited for.
    pub(super) async fn enter(&self, tokens: u64, patience: bool) -> Result<Pass<'_>, Shut> {
        self.alive()?;
        let paused = || self.lock().paused.filter(|until| *until > Instant::now());
        if !patience && (paused().is_some() || self.breaker.is_open(Instant::now())) {
            return Err(Shut::Busy);
        }
        // The semaphore is never closed.
        let permit = self.permits.acquire().await.map_err(|_| Shut::Dead("it is closed".to_owned()))?;
        if !patience && self.breaker.is_open(Instant::now()) {
            return Err(Shut::Busy);
        }
        let leave = self.breaker.admit().await;
        let now = Instant::now();
        let rates = [(&self.requests, 1.0), (&self.tokens, tokens as f64)];
        let wait =
            rates.iter().filter_map(|(bucket, amount)| Some(bucket.as_ref()?.take(*amount, now))).max();
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            tokio::time::sleep(wait).await;
        }
        while let Some(until) = paused() {
            tokio::time::sleep_until(until.into()).await;
        }
        self.alive()?;
        Ok(Pass { gate: self, leave, tokens, _permit: permit })
    }

    fn alive(&self) -> Result<(), Shut> {
        match &self.lock().dead {
            Some(why) => Err(Shut::Dead(why.clone())),
            None => Ok(()),
        }
    }

    /// Gives the teacher up.
    pub(super) fn give_up(&self, why: String) {
        self.lock().dead.get_or_insert(why);
    }

    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        state.paused = Some(state.paused.map_or(until, |paused| paused.max(until)));
    }

    pub(super) fn count_answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failure(&self, for_good: bool) {
        if for_good { &self.failed } else { &self.retried }.fetch_add(1, Ordering::Relaxed);
    }

    /// What the teacher did so far.
    pub fn report(&self) -> GateReport {
        let state = self.lock();
        let now = Instant::now();
        let waits = if state.dead.is_some() {
            Some("given up")
        } else if self.breaker.is_open(now) {
            Some("left alone")
        } else {
            state.paused.filter(|until| *until > now).map(|_| "asked to wait")
        };
        GateReport {
            label: self.config.label(),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
            breaker: self.breaker.counts(),
            waits,
        }
    }
}

impl Pass<'_> {
    pub(super) fn is_probe(&self) -> bool {
        self.leave.is_probe()
    }

    /// Tells what became of the request, and how many tokens it used.
    pub(super) fn done(self, result: Result<(), &Failure>, used: Option<u64>) {
        if let (Some(bucket), Some(used)) = (&self.gate.tokens, used) {
            bucket.give(self.tokens.saturating_sub(used) as f64, Instant::now());
        }
        let health = match result {
            Ok(()) => Health::Well,
            Err(failure) if failure.kind.is_outage() => Health::Ill,
            Err(failure) if failure.kind == FailureKind::RateLimited => Health::Unknown,
            // It works, and does not like the request.
            Err(_) => Health::Well,
        };
        if let Err(failure) = result {
            if let Some(wait) = failure.retry_after {
                self.gate.pause(wait);
            }
            if failure.kind.is_fatal() {
                self.gate.give_up(failure.message.clone());
            }
        }
        if self.leave.done(health) {
            let why = result.err().map_or(String::new(), |failure| failure.message.clone());
            self.gate.give_up(format!("it has not been well for long: {why}"));
        }
    }
}
