//! What may be spent: the worst case of a request is reserved before it is sent, and settled when its cost is known. At no
//! moment do spent and reserved together exceed a limit, so no limit is ever passed, at any concurrency.

use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// An amount of everything that is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Amount {
    /// Requests sent.
    pub requests: u64,
    /// Tokens read.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
    /// Money, in the currency of the prices; 0 where the price is not known.
    pub cost: f64,
}

impl Amount {
    /// Tokens read and written.
    pub fn tokens(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Tokens and money for people.
    pub fn in_words(self) -> String {
        format!("{} tokens read, {} written, cost {:.6}", self.input, self.output, self.cost)
    }

    /// Both together.
    pub fn plus(self, other: Amount) -> Amount {
        Amount {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cost: self.cost + other.cost,
        }
    }
}

/// Limits; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Most money.
    pub cost: Option<f64>,
    /// Most tokens.
    pub tokens: Option<u64>,
    /// Most requests.
    pub requests: Option<u64>,
}

impl Limits {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.cost.is_some() || self.tokens.is_some() || self.requests.is_some()
    }

    /// Whether `used` is more than `worst` of something that is limited.
    pub fn is_short(&self, worst: Amount, used: Amount) -> bool {
        self.tokens.is_some() && used.tokens() > worst.tokens()
            || self.cost.is_some() && used.cost > worst.cost
    }

    /// The limit that `amount` exceeds, in words.
    fn exceeded(&self, amount: Amount) -> Option<String> {
        if let Some(most) = self.requests.filter(|most| amount.requests > *most) {
            return Some(format!("max_requests {most}"));
        }
        if let Some(most) = self.tokens.filter(|most| amount.tokens() > *most) {
            return Some(format!("max_tokens {most}"));
        }
        self.cost.filter(|most| amount.cost > *most).map(|most| format!("max_cost {most}"))
    }
}

/// Keeps to the limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    state: Mutex<State>,
    settled: Notify,
}

#[derive(Debug)]
struct State {
    spent: Amount,
    reserved: Vec<Amount>,
}

impl State {
    /// Summed anew each time: subtracting floats would leave crumbs behind.
    fn committed(&self) -> Amount {
        self.reserved.iter().fold(self.spent, |sum, amount| sum.plus(*amount))
    }
}

/// A budget that has no room for a request, whatever becomes of those under way: the limit, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted(pub String);

impl Budget {
    /// A budget of which `spent` is gone already.
    pub fn new(limits: Limits, spent: Amount) -> Self {
        Budget { limits, state: Mutex::new(State { spent, reserved: Vec::new() }), settled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was spent.
    pub fn spent(&self) -> Amount {
        self.lock().spent
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether there is room for `worst` once all requests under way have cost nothing.
    ///
    /// # Errors
    /// When there is none.
    pub fn room(&self, worst: Amount) -> Result<(), Exhausted> {
        self.limits.exceeded(self.lock().spent.plus(worst)).map_or(Ok(()), |limit| Err(Exhausted(limit)))
    }

    /// Sets aside what `worst` says, which may change while it waits for requests under way, where these may turn out cheaper than
    /// their worst case.
    ///
    /// # Errors
    /// When waiting would not help.
    pub async fn reserve(&self, worst: impl Fn() -> Amount) -> Result<Reservation<'_>, Exhausted> {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let worst = worst();
                let mut state = self.lock();
                if let Some(limit) = self.limits.exceeded(state.spent.plus(worst)) {
                    return Err(Exhausted(limit));
                }
                if !self.limits.any() || self.limits.exceeded(state.committed().plus(worst)).is_none() {
                    if self.limits.any() {
                        state.reserved.push(worst);
                    }
                    return Ok(Reservation { budget: self, worst, open: true });
                }
            }
            settled.await;
        }
    }

    fn settle(&self, worst: Amount, actual: Amount) {
        let mut state = self.lock();
        if let Some(at) = state.reserved.iter().position(|amount| *amount == worst) {
            state.reserved.swap_remove(at);
        }
        state.spent = state.spent.plus(actual);
        drop(state);
        self.settled.notify_waiters();
    }
}

/// An amount set aside. Dropped unsettled, all of it counts as spent.
#[derive(Debug)]
pub struct Reservation<'a> {
    budget: &'a Budget,
    worst: Amount,
    open: bool,
}

impl Reservation<'_> {
    /// What was set aside.
    pub fn worst(&self) -> Amount {
        self.worst
    }

    /// Says what was spent in truth.
    pub fn settle(mut self, actual: Amount) {
        self.open = false;
        self.budget.settle(self.worst, actual);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.open {
            self.budget.settle(self.worst, self.worst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn tokens(n: u64) -> Amount {
        Amount { requests: 1, input: n / 2, output: n - n / 2, cost: n as f64 * 0.01 }
    }

    #[tokio::test]
    async fn a_request_waits_for_those_under_way_and_ends_when_that_cannot_help() {
        let budget = Budget::new(Limits { tokens: Some(100), ..Limits::default() }, tokens(10));
        let first = budget.reserve(|| tokens(60)).await.unwrap();
        assert!(budget.reserve(|| tokens(91)).await.is_err());
        let waits = budget.reserve(|| tokens(50));
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        first.settle(tokens(20));
        let second = waits.await.unwrap();
        drop(second);
        assert_eq!(budget.spent().tokens(), 80);
        assert_eq!(budget.reserve(|| tokens(21)).await.unwrap_err(), Exhausted("max_tokens 100".into()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_limit_is_passed_at_any_concurrency() {
        for limits in [
            Limits { tokens: Some(5_000), ..Limits::default() },
            Limits { requests: Some(137), ..Limits::default() },
            Limits { cost: Some(49.99), ..Limits::default() },
        ] {
            let budget = Arc::new(Budget::new(limits, Amount::default()));
            let highest = Arc::new(AtomicU64::new(0));
            let work = (0..400u64).map(|i| {
                let (budget, highest) = (Arc::clone(&budget), Arc::clone(&highest));
                tokio::spawn(async move {
                    let Ok(reservation) = budget.reserve(|| tokens(40)).await else { return };
                    // What is in flight may cost its worst case at any moment.
                    let committed = budget.lock().committed();
                    assert_eq!(budget.limits.exceeded(committed), None);
                    tokio::task::yield_now().await;
                    highest.fetch_add(1, Ordering::Relaxed);
                    reservation.settle(tokens(i % 41));
                })
            });
            futures::future::join_all(work).await.into_iter().for_each(|done| done.unwrap());
            assert_eq!(limits.exceeded(budget.spent()), None);
            // And it is used up as far as it goes.
            assert!(
                limits.exceeded(budget.spent().plus(tokens(40))).is_some()
                    || highest.load(Ordering::Relaxed) == 400
            );
        }
    }

    #[tokio::test]
    async fn what_is_learned_while_a_request_waits_counts() {
        let budget = Budget::new(Limits { tokens: Some(100), ..Limits::default() }, Amount::default());
        let worst = AtomicU64::new(60);
        let ask = || budget.reserve(|| tokens(worst.load(Ordering::Relaxed)));
        let first = ask().await.unwrap();
        let waits = ask();
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        // The first used 90, so the others may.
        worst.store(90, Ordering::Relaxed);
        first.settle(tokens(90));
        assert_eq!(waits.await.unwrap_err(), Exhausted("max_tokens 100".into()));
        assert!(budget.room(tokens(11)).is_err() && budget.room(tokens(10)).is_ok());
    }
}
