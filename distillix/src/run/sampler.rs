//! From logits to a token.

use anyhow::{Result, bail, ensure};
use std::cmp::Ordering;
use tensor::Stream;

/// Keeps these draws apart from a run's other random numbers.
const SITE: u32 = 0x5a3e;
/// Candidates that top-p sorts at first; four times as many each time they do not suffice.
const FIRST_SORTED: usize = 128;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token, of equals the one with the lowest id.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability are drawn from; 1 for all.
    pub top_p: f64,
    /// Only so many of the likeliest tokens are drawn from; 0 for all.
    pub top_k: usize,
    /// Equal seeds draw equal tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// The likeliest token each time.
    fn default() -> Self {
        Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// With the value and what it may be.
    pub fn validate(&self) -> Result<()> {
        let Sampling { temperature, top_p, .. } = *self;
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "the temperature is {temperature}, it must be a number from 0 up"
        );
        ensure!(top_p > 0.0 && top_p <= 1.0, "top-p is {top_p}, it must be above 0 and at most 1");
        Ok(())
    }
}

/// Chooses tokens; keeps its memory from token to token.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// Tokens that are never chosen.
    suppressed: Vec<u32>,
    candidates: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler that never chooses a `suppressed` token.
    ///
    /// # Errors
    /// If a value is out of its range.
    pub fn new(sampling: Sampling, suppressed: Vec<u32>) -> Result<Self> {
        sampling.validate()?;
        Ok(Sampler { sampling, suppressed, candidates: Vec::new(), weights: Vec::new() })
    }

    /// Chooses the token after those whose `logits` these are. `index` counts the tokens of a completion: it and the
    /// seed decide the draw.
    ///
    /// # Errors
    /// If a logit is not finite.
    pub fn choose(&mut self, logits: &[f32], index: u64) -> Result<u32> {
        let Sampler { sampling, suppressed, candidates, weights } = self;
        candidates.clear();
        for (id, &z) in logits.iter().enumerate() {
            if !z.is_finite() {
                bail!("the model gives a logit of {z} to token {id}: its weights are damaged");
            }
            candidates.push((id as u32, z));
        }
        candidates.retain(|(id, _)| !suppressed.contains(id));
        let best = candidates.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((best, max)) = best else { bail!("the model has no token to choose from") };
        if sampling.temperature == 0.0 || sampling.top_k == 1 {
            return Ok(best);
        }
        let weight = |z: f32| (f64::from(z - max) / sampling.temperature).exp();
        if sampling.top_k > 0 && sampling.top_k < candidates.len() {
            candidates.select_nth_unstable_by(sampling.top_k - 1, likelier);
            candidates.truncate(sampling.top_k);
            candidates.sort_unstable_by(likelier);
        }
        weights.clear();
        weights.extend(candidates.iter().map(|c| weight(c.1)));
        if sampling.top_p < 1.0 {
            let wanted = sampling.top_p * weights.iter().sum::<f64>();
            let kept = nucleus(candidates, wanted, weight);
            candidates.truncate(kept);
            weights.clear();
            weights.extend(candidates.iter().map(|c| weight(c.1)));
        }
        let stream = Stream { step: index, site: SITE, ..Stream::new(sampling.seed) };
        let mut left = stream.uniform_f64(0) * weights.iter().sum::<f64>();
        for (candidate, weight) in candidates.iter().zip(&*weights) {
            left -= weight;
            if left < 0.0 {
                return Ok(candidate.0);
            }
        }
        // Rounding left a crumb over; the likeliest token always has weight.
        Ok(best)
    }
}

/// Likelier tokens first, of equals the one with the lowest id.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Sorts the likeliest candidates to the front, and returns how many of them together reach `wanted`.
fn nucleus(candidates: &mut [(u32, f32)], wanted: f64, weight: impl Fn(f32) -> f64) -> usize {
    let mut sorted = FIRST_SORTED;
    loop {
        let all = sorted >= candidates.len();
        let front = if all {
            &mut *candidates
        } else {
            candidates.select_nth_unstable_by(sorted - 1, likelier);
            &mut candidates[..sorted]
        };
        front.sort_unstable_by(likelier);
        let mut mass = 0.0;
        for (i, candidate) in front.iter().enumerate() {
            mass += weight(candidate.1);
            if mass >= wanted {
                return i + 1;
            }
        }
        if all {
            return candidates.len();
        }
        sorted *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, top_k: usize) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, top_k, seed: 7 }, vec![0]).unwrap()
    }

    /// Shares of tokens in `n` draws.
    fn shares(sampler: &mut Sampler, logits: &[f32], n: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for i in 0..n {
            counts[sampler.choose(logits, i).unwrap() as usize] += 1.0;
        }
        counts.iter().map(|count| count / n as f64).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals_and_nothing_suppressed() {
        let mut greedy = sampler(0.0, 1.0, 0);
        assert_eq!(greedy.choose(&[9.0, 1.0, 3.0, 3.0], 0).unwrap(), 2);
        assert_eq!(sampler(5.0, 1.0, 1).choose(&[9.0, 1.0, 3.0, 3.0], 0).unwrap(), 2);
        assert!(greedy.choose(&[1.0, f32::NAN], 0).unwrap_err().to_string().contains("token 1"));
        assert!(greedy.choose(&[1.0], 0).is_err());
    }

    #[test]
    fn draws_follow_the_distribution() {
        let p = [0.5f32, 0.1, 0.2, 0.7];
        let logits = p.map(f32::ln);
        let got = shares(&mut sampler(1.0, 1.0, 0), &logits, 40_000);
        for (got, want) in got.iter().zip([0.0, 0.1, 0.2, 0.7]) {
            assert!((got - want).abs() < 0.01, "{got} {want}");
        }
        // At temperature 1/2 probabilities are squared.
        let got = shares(&mut sampler(0.5, 1.0, 0), &logits, 40_000);
        assert!((got[3] - 0.49 / 0.54).abs() < 0.01, "{got:?}");
    }

    #[test]
    fn top_p_and_top_k_cut_the_tail() {
        let logits = [0.5f32, 0.1, 0.2, 0.7].map(f32::ln);
        assert_eq!(shares(&mut sampler(1.0, 0.6, 0), &logits, 1000), [0.0, 0.0, 0.0, 1.0]);
        for mut cut in [sampler(1.0, 0.8, 0), sampler(1.0, 1.0, 2)] {
            let got = shares(&mut cut, &logits, 10_000);
            assert!(got[1] == 0.0 && (got[2] - 2.0 / 9.0).abs() < 0.02, "{got:?}");
        }
    }

    #[test]
    fn top_p_is_right_beyond_what_is_sorted_first() {
        let candidates: Vec<(u32, f32)> = (0..5000).map(|i| (i, -((i * 37 % 5000) as f32) / 500.0)).collect();
        let weight = |z: f32| f64::from(z).exp();
        let total: f64 = candidates.iter().map(|c| weight(c.1)).sum();
        let mut whole = candidates.clone();
        whole.sort_unstable_by(likelier);
        for share in [0.01, 0.3, 0.9, 0.9999, 1.0] {
            let (mut mass, mut want) = (0.0, whole.len());
            for (i, c) in whole.iter().enumerate() {
                mass += weight(c.1);
                if mass >= share * total {
                    want = i + 1;
                    break;
                }
            }
            let mut got = candidates.clone();
            assert_eq!(nucleus(&mut got, share * total, weight), want);
            assert_eq!(got[..want], whole[..want]);
        }
    }

    #[test]
    fn seeds_reproduce_and_differ() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| -> Vec<u32> {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, Vec::new()).unwrap();
            (0..20).map(|i| sampler.choose(&logits, i).unwrap()).collect()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn extreme_temperatures_still_choose() {
        let logits = [0.0, 30.0, -30.0, 29.0];
        assert_eq!(sampler(1e-300, 0.5, 0).choose(&logits, 3).unwrap(), 1);
        assert!(sampler(1e300, 0.9, 3).choose(&logits, 3).unwrap() > 0);
        for (temperature, top_p) in [(-1.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(Sampling { temperature, top_p, ..Sampling::default() }.validate().is_err());
        }
    }
}
