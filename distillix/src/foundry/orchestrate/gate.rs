//! The way to one teacher: how many requests at a time, how many a minute, when not, and whose fault it is if none is answered.

use super::backoff::backoff;
use super::breaker::{Block, Breaker, Health, Leave};
use super::bucket::Bucket;
use super::window::{Place, Window};
use super::worst::WorstCase;
use crate::foundry::budget::Amount;
use crate::foundry::config::{FoundryConfig, Price, TeacherConfig};
use crate::foundry::store::Spending;
use crate::foundry::teacher::{Failure, FailureKind, Offer, Request, Teacher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A teacher, and the rules for asking it.
pub struct Gate {
    /// Its config.
    pub config: TeacherConfig,
    pub(super) teacher: Box<dyn Teacher>,
    worst: WorstCase,
    window: Window,
    /// Of requests and of tokens.
    rates: Mutex<[Option<Bucket>; 2]>,
    /// Held by the request that is the next to be sent, while it waits for the rates.
    turn: tokio::sync::Mutex<()>,
    breaker: Breaker,
    /// Seconds of the first and of the longest wait after a refusal that names none.
    backoff: (f64, f64),
    state: Mutex<State>,
    /// Whether it answered in an earlier run.
    is_known: bool,
    answered: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Why it is of no use any more.
    dead: Option<String>,
    /// Refusals since the last answer that may be its own fault.
    refusals: u32,
}

/// So many refusals in a row speak against the teacher, not against the requests; so many of one request while others are under way
/// speak against that request.
pub(super) const REFUSALS: u32 = 8;

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// For now.
    Busy,
    /// For good.
    Dead(String),
}

/// Leave to send one request. Dropped before [`Pass::done`], nothing was sent.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    /// `None` once it is done.
    leave: Option<Leave<'a>>,
    is_probe: bool,
    tokens: f64,
    since: Instant,
    _place: Place<'a>,
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
        foundry: &FoundryConfig,
    ) -> Self {
        let now = Instant::now();
        Gate {
            worst: WorstCase::new(&config, offer),
            window: Window::new(config.concurrency),
            rates: Mutex::new(
                [config.requests_per_minute, config.tokens_per_minute]
                    .map(|rate| rate.map(|rate| Bucket::new(rate, now))),
            ),
            turn: tokio::sync::Mutex::default(),
            breaker: Breaker::new(foundry.breaker),
            backoff: (foundry.backoff_s, foundry.max_backoff_s),
            state: Mutex::default(),
            is_known: false,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            config,
            teacher,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self) -> MutexGuard<'_, [Option<Bucket>; 2]> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was `spent` on teachers in earlier runs: one that has answered may refuse a request for the request's own
    /// sake.
    pub fn recall(&mut self, spent: &[Spending]) {
        let (teacher, model) = (self.config.name(), &self.config.model);
        self.is_known =
            spent.iter().any(|row| row.teacher == teacher && row.model == *model && row.answers > 0);
    }

    /// What it costs, if that is known.
    pub fn price(&self) -> Option<Price> {
        self.worst.price()
    }

    /// The most tokens that an answer can have when `asked` are asked for, as far as that is known.
    pub fn longest_answer(&self, asked: u32) -> Option<u64> {
        self.worst.longest_answer(asked)
    }

    /// The worst case of a request.
    pub(super) fn worst(&self, request: &Request) -> Amount {
        self.worst.of(request)
    }

    /// What so many tokens cost by the price list.
    pub(super) fn cost(&self, input: u64, output: u64) -> f64 {
        self.worst.cost(input, output)
    }

    /// Takes in what a request used in truth. True if the worst case did not cover it.
    pub(super) fn learn(&self, request: &Request, used: Amount) -> bool {
        self.worst.learn(request, used)
    }

    /// Waits until a request may be sent. Without `patience`, a server that is left alone is not waited for.
    pub(super) async fn enter(&self, tokens: u64, patience: bool) -> Result<Pass<'_>, Shut> {
        self.alive()?;
        if !patience && self.breaker.blocked(Instant::now()).is_some() {
            return Err(Shut::Busy);
        }
        let place = self.window.enter().await;
        let tokens = tokens as f64;
        loop {
            let leave = self.breaker.admit(patience).await;
            self.alive()?;
            let leave = leave.ok_or(Shut::Busy)?;
            if self.turn(&leave, tokens).await {
                let is_probe = leave.is_probe();
                let (leave, since) = (Some(leave), Instant::now());
                return Ok(Pass { gate: self, leave, is_probe, tokens, since, _place: place });
            }
        }
    }

    /// Waits until the rates have room for a request, and takes it. False if the server is left alone or given up by then.
    async fn turn(&self, leave: &Leave<'_>, tokens: f64) -> bool {
        // The one that tries the server goes ahead: all others wait for what becomes of it.
        let _turn = if leave.is_probe() { None } else { Some(self.turn.lock().await) };
        while leave.holds() && self.alive().is_ok() {
            let wait = self.take(tokens);
            if wait.is_zero() {
                return true;
            }
            tokio::time::sleep(wait).await;
        }
        false
    }

    /// Takes a request with so many tokens from the rates, if both have room now; else says how long that is not so.
    fn take(&self, tokens: f64) -> Duration {
        let now = Instant::now();
        let mut rates = self.rates();
        let wait = rates.iter().flatten().map(|bucket| bucket.wait(now)).max().unwrap_or_default();
        if wait.is_zero() {
            for (bucket, amount) in rates.iter_mut().zip([1.0, tokens]) {
                if let Some(bucket) = bucket {
                    bucket.take(amount, now);
                }
            }
        }
        wait
    }

    /// Gives back tokens that were not used.
    fn give_back(&self, tokens: f64) {
        if let [_, Some(bucket)] = &mut *self.rates() {
            bucket.give(tokens);
        }
    }

    /// Whether the teacher can be of use.
    pub(super) fn alive(&self) -> Result<(), Shut> {
        match &self.lock().dead {
            Some(why) => Err(Shut::Dead(why.clone())),
            None => Ok(()),
        }
    }

    /// Gives the teacher up.
    fn give_up(&self, why: String) {
        self.lock().dead.get_or_insert(why);
    }

    /// Whether a failure may be the teacher's whatever it is asked, which is given up if it is sure. `is_first`: this request has
    /// not failed so before.
    fn is_to_blame(&self, failure: &Failure, is_first: bool) -> bool {
        // What is wrong with the key or the address is no matter of the request, so earlier runs say nothing of it.
        let is_fatal = failure.kind.is_fatal();
        let is_new = self.answered.load(Ordering::Relaxed) == 0 && (is_fatal || !self.is_known);
        let may_be = is_fatal || is_new && failure.kind == FailureKind::Rejected;
        if !may_be || failure.again {
            return false;
        }
        let refusals = {
            let mut state = self.lock();
            // One request that is refused again says nothing new while others may yet be answered.
            state.refusals += u32::from(is_first || self.window.at_most_one());
            state.refusals
        };
        if is_fatal && is_new {
            self.give_up(failure.message.clone());
        } else if refusals >= REFUSALS {
            self.give_up(format!("it refuses every request: {}", failure.message));
        }
        is_new
    }

    pub(super) fn count_answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.lock().refusals = 0;
    }

    pub(super) fn count_failure(&self, for_good: bool) {
        if for_good { &self.failed } else { &self.retried }.fetch_add(1, Ordering::Relaxed);
    }

    /// What the teacher did so far.
    pub fn report(&self) -> GateReport {
        let blocked = self.breaker.blocked(Instant::now());
        let waits = match (self.alive(), blocked) {
            (Err(_), _) => Some("given up"),
            (Ok(()), Some(Block::Ill)) => Some("left alone"),
            (Ok(()), Some(Block::Asked)) => Some("asked to wait"),
            (Ok(()), None) => None,
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
    /// Whether the request tries a server that was left alone.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Tells that an answer came, and how many tokens it used.
    pub(super) fn answered(mut self, used: Option<u64>) {
        self.gate.window.answered();
        self.done(Health::Well, None, used);
    }

    /// Tells that the request failed, and how many tokens it used. True if it may be the teacher's fault whatever it is asked.
    pub(super) fn failed(mut self, failure: &Failure, used: Option<u64>, is_first: bool) -> bool {
        let gate = self.gate;
        let (health, pause) = match failure.kind {
            FailureKind::RateLimited => (Health::Unknown, Some(self.pause(failure))),
            kind if kind.is_outage() => (Health::Ill, failure.retry_after),
            // It works, and does not like the request.
            _ => (Health::Well, failure.retry_after),
        };
        let is_to_blame = gate.is_to_blame(failure, is_first);
        if self.done(health, pause, used) {
            gate.give_up(format!("it has not answered for long: {}", failure.message));
        }
        is_to_blame
    }

    /// The pause after a refusal for asking too much: what the server names, and more where that did not help.
    fn pause(&self, failure: &Failure) -> Duration {
        let times = self.gate.window.refused(self.since);
        let (first, longest) = self.gate.backoff;
        match failure.retry_after {
            Some(named) if times == 1 => named,
            Some(named) => named.max(backoff(times - 1, first, longest)),
            None => backoff(times, first, longest),
        }
    }

    /// True if the teacher should be given up.
    fn done(&mut self, health: Health, pause: Option<Duration>, used: Option<u64>) -> bool {
        if let Some(used) = used {
            self.gate.give_back(self.tokens - used as f64);
        }
        self.leave.take().is_some_and(|leave| leave.done(health, pause))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.leave.is_some() {
            self.gate.give_back(self.tokens);
        }
    }
}
