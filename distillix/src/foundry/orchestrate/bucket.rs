//! A limit on a rate: so much a minute, spread evenly.

use std::time::{Duration, Instant};

/// As much later than it was told to a sleeper may wake without losing what it waited for.
const LATE_S: f64 = 0.01;

/// Says when the next amount may be used, and takes it.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    begin: Instant,
    /// Seconds after `begin` at which all that was taken so far is paid off.
    free: f64,
}

impl Bucket {
    pub(super) fn new(per_minute: f64, now: Instant) -> Self {
        Bucket { per_second: per_minute / 60.0, begin: now, free: 0.0 }
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.begin).as_secs_f64()
    }

    /// How long to wait before anything may be taken.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let wait = (self.free - self.seconds(now)).max(0.0);
        Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)
    }

    /// Takes `amount`, which is used now.
    pub(super) fn take(&mut self, amount: f64, now: Instant) {
        let now = self.seconds(now);
        // What was not used in time is gone: saved up, it would go in a burst.
        let start = if now - self.free < LATE_S { self.free } else { now };
        self.free = start + amount / self.per_second;
    }

    /// Gives back what was taken and not used; below 0, takes what was used on top.
    pub(super) fn give(&mut self, amount: f64) {
        self.free -= amount / self.per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_no_more_than_the_rate() {
        for per_minute in [1.0, 30.0, 120.0, 6000.0] {
            let begin = Instant::now();
            let mut bucket = Bucket::new(per_minute, begin);
            let interval = Duration::from_secs_f64(60.0 / per_minute);
            // After a quiet time, too, they go one by one; that one was woken late does not hold up those behind it.
            for start in [begin, begin + Duration::from_secs(3600)] {
                for i in 0..2 * per_minute as u32 {
                    let wait = bucket.wait(start);
                    assert!(wait.abs_diff(interval * i) < Duration::from_micros(1), "{wait:?}");
                    assert_eq!(bucket.wait(start + wait + Duration::from_micros(1)), Duration::ZERO);
                    let late = Duration::from_millis(if i > 0 { 5 } else { 0 });
                    bucket.take(1.0, start + wait + late);
                }
            }
        }
    }

    #[test]
    fn large_amounts_are_paid_off_and_what_is_given_back_is_free() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(600.0, begin);
        bucket.take(110.0, begin);
        assert_eq!(bucket.wait(begin), Duration::from_secs(11));
        bucket.give(60.0);
        assert_eq!(bucket.wait(begin), Duration::from_secs(5));
        bucket.give(-20.0);
        assert_eq!(bucket.wait(begin), Duration::from_secs(7));
        bucket.give(1000.0);
        assert_eq!(bucket.wait(begin), Duration::ZERO);
    }
}
