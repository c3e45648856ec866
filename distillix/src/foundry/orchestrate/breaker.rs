//! A circuit breaker: a server that mostly fails is left alone for a while, then tried with a single request.

use crate::foundry::config::BreakerConfig;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// One teacher's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The last requests: whether they failed.
    recent: VecDeque<bool>,
    open: Option<Open>,
    /// How often it has opened and closed.
    opened: u64,
    closed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    until: Instant,
    cooldown: Duration,
    /// A request is trying the server.
    probing: bool,
}

/// Leave to send a request. What became of it has to be told with [`Breaker::done`]; dropped, it says nothing.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

/// What a request says of the server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    Ill,
    /// Nothing, as with a request that was not sent.
    Unknown,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Breaker { config, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request would have to wait.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.lock().open.is_some_and(|open| open.probing || now < open.until)
    }

    /// How often it has opened and closed.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.opened, state.closed)
    }

    /// Waits until a request may be sent.
    pub(super) async fn admit(&self) -> Leave<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let mut state = self.lock();
                match &mut state.open {
                    None => return Leave { breaker: self, probe: false },
                    Some(open) if !open.probing && Instant::now() >= open.until => {
                        open.probing = true;
                        return Leave { breaker: self, probe: true };
                    }
                    Some(open) => (!open.probing).then_some(open.until),
                }
            };
            match until {
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Takes in what became of a request. True if the server has not been well for too long.
    fn record(&self, probe: bool, health: Health, now: Instant) -> bool {
        let mut state = self.lock();
        let mut given_up = false;
        let mut changed = false;
        match (state.open, health) {
            (Some(_), Health::Well) => {
                state.open = None;
                state.closed += 1;
                state.recent.clear();
                changed = true;
            }
            (Some(open), _) if probe => {
                let longest = Duration::from_secs_f64(self.config.max_cooldown_s);
                let cooldown = match health {
                    Health::Ill => (open.cooldown * 2).min(longest),
                    _ => Duration::ZERO,
                };
                given_up = health == Health::Ill
                    && now.saturating_duration_since(open.since).as_secs_f64() >= self.config.give_up_s;
                let cooldown_after = cooldown.max(open.cooldown);
                state.open =
                    Some(Open { until: now + cooldown, cooldown: cooldown_after, probing: false, ..open });
                changed = true;
            }
            (Some(_), _) | (None, Health::Unknown) => {}
            (None, health) => {
                state.recent.push_back(health == Health::Ill);
                if state.recent.len() > self.config.window {
                    state.recent.pop_front();
                }
                let failed = state.recent.iter().filter(|failed| **failed).count();
                if state.recent.len() == self.config.window
                    && failed as f64 >= self.config.failures * self.config.window as f64
                    && health == Health::Ill
                {
                    let cooldown = Duration::from_secs_f64(self.config.cooldown_s);
                    state.open = Some(Open { since: now, until: now + cooldown, cooldown, probing: false });
                    state.opened += 1;
                    state.recent.clear();
                }
            }
        }
        drop(state);
        if changed {
            self.changed.notify_waiters();
        }
        given_up
    }
}

impl Leave<'_> {
    /// Whether this request tries a server that was left alone.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells what became of the request. True if the server should be given up.
    pub(super) fn done(mut self, health: Health) -> bool {
        let probe = std::mem::take(&mut self.probe);
        self.breaker.record(probe, health, Instant::now())
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.record(true, Health::Unknown, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let config = BreakerConfig {
            window: 4,
            failures: 0.5,
            cooldown_s: 0.02,
            max_cooldown_s: 0.05,
            give_up_s: 0.2,
        };
        Breaker::new(config)
    }

    #[tokio::test]
    async fn it_opens_tries_and_closes() {
        let breaker = breaker();
        for health in [Health::Ill, Health::Well, Health::Unknown, Health::Well] {
            assert!(!breaker.admit().await.done(health));
        }
        assert!(!breaker.is_open(Instant::now()));
        breaker.admit().await.done(Health::Ill);
        assert!(breaker.is_open(Instant::now()), "2 of 4 failed");
        let begin = Instant::now();
        let probe = breaker.admit().await;
        assert!(probe.is_probe() && begin.elapsed() >= Duration::from_millis(15));
        // One at a time: the next waits for the first, and tries in its turn if that says nothing.
        let next = breaker.admit();
        tokio::pin!(next);
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(probe);
        let next = next.await;
        assert!(next.is_probe());
        assert!(!next.done(Health::Well));
        assert!(!breaker.admit().await.is_probe());
        assert_eq!(breaker.counts(), (1, 1));
    }

    #[tokio::test]
    async fn a_server_that_stays_ill_is_given_up() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.admit().await.done(Health::Ill);
        }
        let begin = Instant::now();
        let mut tries = 0;
        while !breaker.admit().await.done(Health::Ill) {
            tries += 1;
        }
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
        assert!(tries <= 8, "{tries} tries");
    }
}
