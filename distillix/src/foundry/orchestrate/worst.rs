//! The worst case of a request: what config and server say of it, and what the teacher was seen to use beyond that.

use crate::foundry::budget::Amount;
use crate::foundry::config::{Price, TeacherConfig, TeacherKind};
use crate::foundry::teacher::{Offer, Request};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one teacher's requests may use.
#[derive(Debug)]
pub(super) struct WorstCase {
    price: Option<Price>,
    offer: Offer,
    /// The most output tokens, as far as they do not depend on the request.
    output: Option<u64>,
    kind: TeacherKind,
    seen: Mutex<Seen>,
}

/// The highest that were seen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// Tokens of a prompt beyond its bytes; at first what the config says.
    overhead: u64,
    /// Tokens of a prompt: a server's `context` may be wrong.
    input: u64,
    /// Tokens of an answer beyond the longest.
    excess: u64,
    /// Price of a token, where the server charged more than the list says.
    token: f64,
}

impl WorstCase {
    pub(super) fn new(config: &TeacherConfig, offer: Offer) -> Self {
        let overhead = config.overhead_tokens.unwrap_or(match config.kind {
            TeacherKind::Openai => 64,
            TeacherKind::Opencode => 16_384,
        });
        let output = match config.kind {
            TeacherKind::Openai => {
                let keys = ["max_tokens", "max_completion_tokens"];
                keys.iter().filter_map(|key| config.extra.get(*key)?.as_u64()).max()
            }
            // The server's settings decide, not the request.
            TeacherKind::Opencode => offer.output.or(offer.context),
        };
        let seen = Mutex::new(Seen { overhead, input: 0, excess: 0, token: 0.0 });
        WorstCase { price: config.price.or(offer.price), offer, output, kind: config.kind, seen }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The price, if it is known.
    pub(super) fn price(&self) -> Option<Price> {
        self.price
    }

    /// The most tokens that an answer can have when `asked` are asked for, as far as that is known.
    pub(super) fn longest_answer(&self, asked: u32) -> Option<u64> {
        match self.kind {
            TeacherKind::Openai => Some(self.output.unwrap_or(0).max(u64::from(asked))),
            TeacherKind::Opencode => self.output,
        }
    }

    /// What so many tokens cost by the price list.
    pub(super) fn cost(&self, input: u64, output: u64) -> f64 {
        self.price.map_or(0.0, |price| price.cost(input, output))
    }

    /// The most that a request may use.
    pub(super) fn of(&self, request: &Request) -> Amount {
        let seen = *self.lock();
        let longest = self.longest_answer(request.sampling.max_tokens).unwrap_or(0);
        let output = longest.saturating_add(seen.excess);
        let input = request.prompt_bytes().saturating_add(seen.overhead);
        let input = input.min(self.offer.context.unwrap_or(u64::MAX).max(seen.input));
        let cost = self.cost(input, output).max(seen.token * input.saturating_add(output) as f64);
        Amount { requests: 1, input, output, cost }
    }

    /// Takes in what a request used in truth, so that the next worst case covers it. True if it did not before.
    pub(super) fn learn(&self, request: &Request, used: Amount) -> bool {
        let longest = self.longest_answer(request.sampling.max_tokens).unwrap_or(0);
        // Rounding is no overcharge.
        let dear = used.cost > self.cost(used.input, used.output) * (1.0 + 1e-6);
        let token = if dear { used.cost / used.tokens().max(1) as f64 } else { 0.0 };
        let mut seen = self.lock();
        let before = *seen;
        // The highest, not the sum: requests of one time all show the same.
        *seen = Seen {
            overhead: before.overhead.max(used.input.saturating_sub(request.prompt_bytes())),
            input: before.input.max(used.input),
            excess: before.excess.max(used.output.saturating_sub(longest)),
            token: before.token.max(token),
        };
        (seen.overhead, seen.excess, seen.token) != (before.overhead, before.excess, before.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::config::FoundryConfig;
    use crate::foundry::teacher::Message;

    #[test]
    fn what_was_seen_bounds_the_next_and_is_not_added_up() {
        let config =
            TeacherConfig { price: Some(Price { input: 1.0, output: 2.0 }), ..TeacherConfig::default() };
        let worst = WorstCase::new(&config, Offer { context: Some(100), ..Offer::default() });
        let request = Request {
            messages: vec![Message::user("x".repeat(20))],
            sampling: FoundryConfig { max_output_tokens: 50, ..FoundryConfig::default() }.sampling(0),
        };
        let first = worst.of(&request);
        assert_eq!((first.input, first.output), (100, 50));
        let within = Amount { requests: 1, input: 30, output: 50, cost: worst.cost(30, 50) };
        assert!(!worst.learn(&request, within));
        assert_eq!(worst.of(&request), first);
        // Eight at a time show the same.
        let beyond = Amount { requests: 1, input: 400, output: 80, cost: 0.1 };
        let learned: Vec<bool> = (0..8).map(|_| worst.learn(&request, beyond)).collect();
        assert_eq!(learned.iter().filter(|new| **new).count(), 1);
        let next = worst.of(&request);
        assert_eq!((next.input, next.output), (400, 80));
        assert!((next.cost - 0.1).abs() < 1e-12, "{next:?}");
    }
}
