//! A token bucket: so much a minute, with a second's worth at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits a rate.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// May be negative: what was taken in advance, in the order of asking.
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_minute: f64, now: Instant) -> Self {
        let per_second = per_minute / 60.0;
        Bucket { per_second, state: Mutex::new(State { level: per_second.max(1.0), at: now }) }
    }

    /// Takes `amount`, and says how long to wait before it is used.
    pub(super) fn take(&self, amount: f64, now: Instant) -> Duration {
        let mut state = self.fill(now);
        state.level -= amount;
        Duration::try_from_secs_f64((-state.level / self.per_second).max(0.0)).unwrap_or(Duration::MAX)
    }

    /// Gives back what was taken and not used.
    pub(super) fn give(&self, amount: f64, now: Instant) {
        let mut state = self.fill(now);
        state.level = (state.level + amount).min(self.per_second.max(1.0));
    }

    fn fill(&self, now: Instant) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.level = (state.level + passed * self.per_second).min(self.per_second.max(1.0));
        state.at = state.at.max(now);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_any_minute() {
        let begin = Instant::now();
        let bucket = Bucket::new(120.0, begin);
        // Two a second: whoever asks at the same moment is served in turn.
        let waits: Vec<u64> = (0..6).map(|_| bucket.take(1.0, begin).as_millis() as u64).collect();
        assert_eq!(waits, [0, 0, 500, 1000, 1500, 2000]);
        let later = begin + Duration::from_secs(3);
        assert_eq!(bucket.take(1.0, later), Duration::ZERO);
        bucket.give(100.0, later);
        assert_eq!(bucket.take(2.0, later), Duration::ZERO);
        assert_eq!(bucket.take(1.0, later), Duration::from_millis(500));
    }

    #[test]
    fn amounts_above_a_second_are_paid_off() {
        let begin = Instant::now();
        let bucket = Bucket::new(600.0, begin);
        assert_eq!(bucket.take(110.0, begin), Duration::from_secs(10));
        assert_eq!(bucket.take(10.0, begin), Duration::from_secs(11));
    }
}
