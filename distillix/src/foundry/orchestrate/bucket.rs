//! A limit on a rate: so much a minute, spread evenly.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hands out times at which what was asked for may be used, one after the other.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    begin: Instant,
    /// Seconds after `begin` at which all that was taken so far is paid off.
    free: Mutex<f64>,
}

impl Bucket {
    pub(super) fn new(per_minute: f64, now: Instant) -> Self {
        Bucket { per_second: per_minute / 60.0, begin: now, free: Mutex::new(0.0) }
    }

    /// Takes `amount`, and says how long to wait before it is used.
    pub(super) fn take(&self, amount: f64, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.begin).as_secs_f64();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used in time is gone: saved up, it would go in a burst.
        let start = free.max(now);
        *free = start + amount / self.per_second;
        Duration::try_from_secs_f64(start - now).unwrap_or(Duration::MAX)
    }

    /// Gives back what was taken and not used; below 0, takes what was used on top.
    pub(super) fn give(&self, amount: f64) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) -= amount / self.per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_no_more_than_the_rate() {
        for per_minute in [1.0, 30.0, 120.0, 6000.0] {
            let begin = Instant::now();
            let bucket = Bucket::new(per_minute, begin);
            // Asked for at once, after a quiet time too, they go one by one.
            for start in [begin, begin + Duration::from_secs(3600)] {
                let waits: Vec<f64> =
                    (0..2 * per_minute as usize).map(|_| bucket.take(1.0, start).as_secs_f64()).collect();
                assert_eq!(waits[0], 0.0);
                let in_a_minute = waits.iter().filter(|wait| **wait < 60.0 - 1e-6).count();
                assert_eq!(in_a_minute as f64, per_minute);
                assert!(waits.windows(2).all(|pair| pair[1] - pair[0] > 59.9 / per_minute));
            }
        }
    }

    #[test]
    fn large_amounts_are_paid_off_and_what_is_given_back_is_free() {
        let begin = Instant::now();
        let bucket = Bucket::new(600.0, begin);
        assert_eq!(bucket.take(110.0, begin), Duration::ZERO);
        assert_eq!(bucket.take(10.0, begin), Duration::from_secs(11));
        bucket.give(60.0);
        assert_eq!(bucket.take(1.0, begin), Duration::from_secs(6));
        bucket.give(-20.0);
        assert_eq!(bucket.take(1.0, begin), Duration::from_millis(8_100));
    }
}
