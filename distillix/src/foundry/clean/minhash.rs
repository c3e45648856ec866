//! MinHash: a set of shingles as the minima of its members under many orders.
//!
//! The share of orders in which two sets have the same minimum is their Jaccard similarity (Broder, "On the resemblance and
//! containment of documents", 1997). Of each minimum 8 bits are kept (Li and König, "b-bit minwise hashing", 2010).

use crate::foundry::tokens::{hash, runs, tokens};
use tensor::cpu::simd::dispatch;

/// Orders.
pub const HASHES: usize = 256;

/// The minima of a set under all orders.
pub type Minima = [u32; HASHES];

/// 8 bits of each minimum.
#[derive(Clone, Debug)]
pub struct Sketch([u8; HASHES]);

impl Sketch {
    /// The estimated Jaccard similarity of the sets.
    pub fn similarity(&self, other: &Self) -> f64 {
        let equal = self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count();
        // One in 256 is equal by chance.
        let chance = 1.0 / 256.0;
        ((equal as f64 / HASHES as f64 - chance) / (1.0 - chance)).max(0.0)
    }
}

/// An order of the 32-bit numbers is `x → (x ⊕ offset)·factor`, which maps them one to one, as the factors are odd.
static ORDERS: ([u32; HASHES], [u32; HASHES]) = orders();

const fn orders() -> ([u32; HASHES], [u32; HASHES]) {
    let (mut offsets, mut factors) = ([0; HASHES], [0; HASHES]);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut at = 0;
    while at < HASHES {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        offsets[at] = (drawn >> 32) as u32;
        factors[at] = drawn as u32 | 1;
        at += 1;
    }
    (offsets, factors)
}

/// The shingles of texts: runs of `size` tokens within a line, or all tokens of a shorter line; hashed, each once.
pub fn shingles<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Vec<u32> {
    let mut all = Vec::new();
    let mut line_hashes: Vec<u64> = Vec::new();
    for line in texts.flat_map(str::lines) {
        line_hashes.clear();
        line_hashes.extend(tokens(line).map(|token| hash(token.as_bytes())));
        if line_hashes.is_empty() {
            continue;
        }
        all.extend(runs(&line_hashes, size.min(line_hashes.len())).map(|run| run as u32));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Sketch and minima of the shingles of texts; `None` if there are none.
pub fn sketch<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Option<(Sketch, Minima)> {
    let shingles = shingles(texts, size);
    if shingles.is_empty() {
        return None;
    }
    let mut minima = [u32::MAX; HASHES];
    let (offsets, factors) = &ORDERS;
    dispatch(
        #[inline(always)]
        || {
            for shingle in &shingles {
                for ((min, offset), factor) in minima.iter_mut().zip(offsets).zip(factors) {
                    *min = (*min).min((shingle ^ offset).wrapping_mul(*factor));
                }
            }
        },
    );
    let sketch = minima.map(|min| (min.wrapping_mul(0x9e37_79b1) >> 24) as u8);
    Some((Sketch(sketch), minima))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn jaccard(a: &[u32], b: &[u32]) -> f64 {
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
        a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
    }

    proptest! {
        #[test]
        fn estimates_are_near_the_truth(shared in 1usize..200, left in 0usize..100, right in 0usize..100, seed: u32) {
            let text = |own: usize, side: &str| -> String {
                let common = (0..shared).map(|i| format!("a{i}_{seed} = b({i})\n"));
                common.chain((0..own).map(|i| format!("{side}{i}_{seed} = {i}\n"))).collect()
            };
            let (a, b) = (text(left, "l"), text(right, "r"));
            let sets = [&a, &b].map(|text| shingles([text.as_str()].into_iter(), 5));
            let sketches = [&a, &b].map(|text| sketch([text.as_str()].into_iter(), 5).expect("not empty").0);
            let (truth, estimate) = (jaccard(&sets[0], &sets[1]), sketches[0].similarity(&sketches[1]));
            // Five standard errors.
            prop_assert!((truth - estimate).abs() < 5.0 * (0.25f64 / HASHES as f64).sqrt(), "{} {}", truth, estimate);
        }
    }

    #[test]
    fn shingles_stay_within_lines() {
        let of = |text: &str| shingles([text].into_iter(), 3).len();
        assert_eq!((of("a b c d\n"), of("a b\nc d\n"), of("a b c\na b c\n"), of(" \n")), (2, 2, 1, 0));
        // The order of lines does not matter, that of tokens does.
        let set = |text: &str| shingles([text].into_iter(), 3);
        assert_eq!(set("a b c\nd e f\n"), set("d e f\na b c\n"));
        assert_ne!(set("a b c"), set("c b a"));
    }
}
