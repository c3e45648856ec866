//! The wait before a retry: it doubles, and is drawn at random so that many requests do not come back at one moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The wait before the retry after `attempt` tries (from 1): from half to all of `first · 2^(attempt-1)`, at most `longest`.
pub(super) fn backoff(attempt: u32, first: f64, longest: f64) -> Duration {
    let whole = (first * 2f64.powi(attempt.saturating_sub(1).min(60) as i32)).min(longest);
    // The standard library seeds its hashers from the system's random numbers.
    let random = (RandomState::new().hash_one(attempt) >> 11) as f64 / (1u64 << 53) as f64;
    Duration::from_secs_f64(whole * (0.5 + 0.5 * random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        for attempt in 1..80 {
            let whole = (0.5 * 2f64.powi(attempt as i32 - 1)).min(30.0);
            let wait = backoff(attempt, 0.5, 30.0).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&wait), "{attempt}: {wait}");
        }
        let waits: std::collections::BTreeSet<Duration> = (0..100).map(|_| backoff(3, 1.0, 30.0)).collect();
        assert!(waits.len() > 90);
    }
}
