//! A circuit breaker: a server that mostly fails, or asks for a pause, is left alone for a while, then tried with a single request.

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
    /// It asked for a pause itself, and is not ill for that.
    asked: bool,
}

/// What keeps requests from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// It mostly failed.
    Ill,
    /// It asked for a pause.
    Asked,
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

    /// Why a request would have to wait now, if it would.
    pub(super) fn blocked(&self, now: Instant) -> Option<Block> {
        let open = self.lock().open.filter(|open| open.probing || now < open.until)?;
        Some(if open.asked { Block::Asked } else { Block::Ill })
    }

    /// How often it has opened and closed.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.opened, state.closed)
    }

    /// Waits until a request may be sent; without `patience`, `None` where it would have to wait.
    pub(super) async fn admit(&self, patience: bool) -> Option<Leave<'_>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let mut state = self.lock();
                match &mut state.open {
                    None => return Some(Leave { breaker: self, probe: false }),
                    Some(open) if !open.probing && Instant::now() >= open.until => {
                        open.probing = true;
                        return Some(Leave { breaker: self, probe: true });
                    }
                    Some(_) if !patience => return None,
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

    /// Takes in what became of a request, and the `pause` that the server asked for. True if the server has not answered for too
    /// long.
    fn record(&self, probe: bool, health: Health, pause: Option<Duration>, now: Instant) -> bool {
        let mut state = self.lock();
        let mut given_up = false;
        let was_open = state.open.is_some();
        let paused_until = pause.map_or(now, |pause| now + pause);
        match &mut state.open {
            // An answer to what was sent before does not end a pause.
            Some(open) if health == Health::Well && open.asked && !probe => open.since = now,
            Some(open) if health == Health::Well => {
                let was_ill = !open.asked;
                state.open = None;
                state.closed += u64::from(was_ill);
                state.recent.clear();
            }
            Some(open) => {
                open.until = open.until.max(paused_until);
                if probe {
                    open.probing = false;
                    if health == Health::Ill {
                        open.cooldown =
                            (open.cooldown * 2).min(Duration::from_secs_f64(self.config.max_cooldown_s));
                        open.until = open.until.max(now + open.cooldown);
                    }
                    given_up = (health == Health::Ill || pause.is_some())
                        && now.saturating_duration_since(open.since).as_secs_f64() >= self.config.give_up_s;
                }
            }
            None => {
                let cooldown = Duration::from_secs_f64(self.config.cooldown_s);
                let ill = self.is_ill(&mut state.recent, health);
                if ill || pause.is_some() {
                    let until = if ill { paused_until.max(now + cooldown) } else { paused_until };
                    state.open = Some(Open { since: now, until, cooldown, probing: false, asked: !ill });
                    state.opened += u64::from(ill);
                }
            }
        }
        drop(state);
        if was_open {
            self.changed.notify_waiters();
        }
        given_up
    }

    /// Whether too many of the last requests failed, `health` being the last of all.
    fn is_ill(&self, recent: &mut VecDeque<bool>, health: Health) -> bool {
        if health == Health::Unknown {
            return false;
        }
        recent.push_back(health == Health::Ill);
        if recent.len() > self.config.window {
            recent.pop_front();
        }
        let failed = recent.iter().filter(|failed| **failed).count();
        let ill = health == Health::Ill
            && recent.len() == self.config.window
            && failed as f64 >= self.config.failures * self.config.window as f64;
        if ill {
            recent.clear();
        }
        ill
    }
}

impl Leave<'_> {
    /// Whether this request tries a server that was left alone.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whether the request may still be sent: not if the server was left alone after the leave was given.
    pub(super) fn holds(&self) -> bool {
        self.probe || self.breaker.lock().open.is_none()
    }

    /// Tells what became of the request, and the pause that the server asked for. True if the server should be given up.
    pub(super) fn done(mut self, health: Health, pause: Option<Duration>) -> bool {
        let probe = std::mem::take(&mut self.probe);
        self.breaker.record(probe, health, pause, Instant::now())
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.record(true, Health::Unknown, None, Instant::now());
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
            assert!(!breaker.admit(true).await.unwrap().done(health, None));
        }
        assert_eq!(breaker.blocked(Instant::now()), None);
        breaker.admit(true).await.unwrap().done(Health::Ill, None);
        assert!(breaker.blocked(Instant::now()).is_some(), "2 of 4 failed");
        let begin = Instant::now();
        let probe = breaker.admit(true).await.unwrap();
        assert!(probe.is_probe() && begin.elapsed() >= Duration::from_millis(15));
        // One at a time: the next waits for the first, and tries in its turn if that says nothing.
        let next = breaker.admit(true);
        tokio::pin!(next);
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(probe);
        let next = next.await.unwrap();
        assert!(next.is_probe());
        assert!(!next.done(Health::Well, None));
        assert!(!breaker.admit(true).await.unwrap().is_probe());
        assert_eq!(breaker.counts(), (1, 1));
    }

    #[tokio::test]
    async fn a_server_that_stays_ill_is_given_up() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.admit(true).await.unwrap().done(Health::Ill, None);
        }
        let begin = Instant::now();
        let mut tries = 0;
        while !breaker.admit(true).await.unwrap().done(Health::Ill, None) {
            tries += 1;
        }
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
        assert!(tries <= 8, "{tries} tries");
    }

    #[tokio::test]
    async fn a_pause_is_kept_and_ends_with_one_request_that_is_answered() {
        let breaker = breaker();
        let (early, late) = (breaker.admit(true).await.unwrap(), breaker.admit(true).await.unwrap());
        let begin = Instant::now();
        assert!(!early.done(Health::Unknown, Some(Duration::from_millis(30))));
        assert!(!late.done(Health::Well, None));
        assert_eq!(breaker.blocked(Instant::now()), Some(Block::Asked), "what was sent before ends no pause");
        assert!(breaker.admit(false).await.is_none());
        let probe = breaker.admit(true).await.unwrap();
        assert!(probe.is_probe() && begin.elapsed() >= Duration::from_millis(30));
        assert!(breaker.admit(false).await.is_none(), "one at a time");
        assert!(!probe.done(Health::Well, None));
        assert!(!breaker.admit(false).await.unwrap().is_probe());
        assert_eq!(breaker.counts(), (0, 0));
        // A server that does nothing but ask for pauses is given up in the end.
        let begin = Instant::now();
        while !breaker.admit(true).await.unwrap().done(Health::Unknown, Some(Duration::from_millis(20))) {}
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
    }
}
