//! How much of known sequences of tokens a text holds, though words in it were changed.
//!
//! The share is the length of the longest common subsequence of a known sequence and a window of the text little longer than it,
//! divided by the sequence's length: a changed word costs that word alone. Windows are compared where runs of tokens that both have
//! lie about as far apart in the text as in the sequence.

use super::tokens::{HashedMap, runs};
use std::collections::HashMap;

/// Windows of a text that are compared with one sequence, at most.
const WINDOWS: usize = 6;
/// A window is compared if it shares one run for each so many tokens of the sequence, and one at least.
const TOKENS_PER_RUN: usize = 12;

/// A known sequence.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// Its tokens, hashed.
    pub tokens: Vec<u64>,
    /// Those of them that stay if the names in it are changed; empty if that leaves too few.
    pub lasting: Vec<u64>,
}

/// Known sequences, by their runs of tokens.
#[derive(Clone, Debug)]
pub struct Index {
    run: usize,
    sequences: Vec<Sequence>,
    /// For each run, the sequences that have it, and where.
    places: HashedMap<Vec<(u32, u32)>>,
}

impl Index {
    /// An empty index by runs of `run` tokens.
    pub fn new(run: usize) -> Self {
        Self { run, sequences: Vec::new(), places: HashedMap::default() }
    }

    /// Adds a sequence. One without tokens is never found.
    pub fn add(&mut self, sequence: Sequence) {
        let number = self.sequences.len() as u32;
        for (at, key) in runs(&sequence.tokens, self.run).enumerate() {
            self.places.entry(key).or_default().push((number, at as u32));
        }
        self.sequences.push(sequence);
    }

    /// The number of the sequence of which `text` holds the largest share, and that share. `least` is the share that counts for a
    /// sequence of so many tokens.
    pub fn find(&self, text: &[u64], least: impl Fn(usize) -> f64) -> Option<(usize, f64)> {
        let mut hits: HashMap<(u32, i64), usize> = HashMap::new();
        for (at, key) in runs(text, self.run).enumerate() {
            for (number, place) in self.places.get(&key).into_iter().flatten() {
                let band = self.sequences[*number as usize].band();
                *hits.entry((*number, (at as i64 - i64::from(*place)).div_euclid(band))).or_default() += 1;
            }
        }
        let enough = |number: u32| (self.sequences[number as usize].tokens.len() / TOKENS_PER_RUN).max(1);
        let mut likely: Vec<_> =
            hits.into_iter().filter(|((number, _), hits)| *hits >= enough(*number)).collect();
        likely.sort_unstable_by_key(|((number, band), hits)| (*number, std::cmp::Reverse(*hits), *band));
        let mut best: Option<(usize, f64)> = None;
        for windows in likely.chunk_by(|a, b| a.0.0 == b.0.0) {
            for ((number, band), _) in windows.iter().take(WINDOWS) {
                let sequence = &self.sequences[*number as usize];
                let share = sequence.share(text, *band, &least);
                if let Some(share) = share.filter(|share| best.is_none_or(|(_, best)| *share > best)) {
                    best = Some((*number as usize, share));
                }
            }
        }
        best
    }
}

impl Sequence {
    /// How far runs may be moved against each other and still count together.
    fn band(&self) -> i64 {
        (self.tokens.len() / 6 + 6) as i64
    }

    /// The share that a window of `text` holds, of all tokens or of the lasting ones, if it counts.
    fn share(&self, text: &[u64], band: i64, least: impl Fn(usize) -> f64) -> Option<f64> {
        let width = self.band();
        let start = ((band - 1) * width).clamp(0, text.len() as i64) as usize;
        let end = (start + self.tokens.len() + 3 * width as usize).min(text.len());
        [&self.tokens, &self.lasting].into_iter().find_map(|tokens| {
            let share = common(tokens, &text[start..end]) as f64 / tokens.len().max(1) as f64;
            (share >= least(tokens.len())).then_some(share)
        })
    }
}

/// The length of the longest common subsequence.
fn common(a: &[u64], b: &[u64]) -> usize {
    let mut row = vec![0u32; b.len() + 1];
    for x in a {
        let (mut diagonal, mut left) = (0, 0);
        for (y, entry) in b.iter().zip(&mut row[1..]) {
            let above = *entry;
            left = if x == y { diagonal + 1 } else { above.max(left) };
            *entry = left;
            diagonal = above;
        }
    }
    row[b.len()] as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn common_subsequences(a in prop::collection::vec(0u64..4, 0..12), b in prop::collection::vec(0u64..4, 0..12)) {
            fn slow(a: &[u64], b: &[u64]) -> usize {
                match (a.split_first(), b.split_first()) {
                    (Some((x, a_rest)), Some((y, b_rest))) if x == y => 1 + slow(a_rest, b_rest),
                    (Some((_, a_rest)), Some((_, b_rest))) => slow(a_rest, b).max(slow(a, b_rest)),
                    _ => 0,
                }
            }
            prop_assert_eq!(common(&a, &b), slow(&a, &b));
        }

        /// Wherever a sequence stands, with a tenth of its tokens changed, it is found; and nothing is where it does not.
        #[test]
        fn changed_sequences_are_found(len in 20u64..200, before in 0u64..500, after in 0u64..500, change in 0u64..10) {
            let mut index = Index::new(3);
            for number in 0..3 {
                let tokens = (0..len).map(|at| number * 1000 + at).collect();
                index.add(Sequence { tokens, lasting: Vec::new() });
            }
            let noise = |count: u64| (0..count).map(|at| 1_000_000 + at);
            let planted = (0..len).map(|at| if at % 10 == change { 9_999_999 } else { 1000 + at });
            let text: Vec<u64> = noise(before).chain(planted).chain(noise(after)).collect();
            let found = index.find(&text, |_| 0.8);
            prop_assert!(found.is_some_and(|(number, share)| number == 1 && share >= 0.85), "{:?}", found);
            prop_assert_eq!(index.find(&noise(before).collect::<Vec<_>>(), |_| 0.8), None);
        }
    }
}
