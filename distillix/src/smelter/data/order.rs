//! The order of training rows: a function of seed and index, with no state.

use super::random::{hash, permute};

/// Rows are dealt to sources in blocks of this many, each with the same number from each source.
const BLOCK: u64 = 4096;

/// Deals an endless series of rows to sources by weight.
pub(super) struct Mixture {
    /// Rows of each block that go to each source; their sum is [`BLOCK`].
    shares: Vec<u64>,
    /// The source of each row of a block, and how many rows of the block that source had before.
    places: Vec<(usize, u64)>,
}

impl Mixture {
    /// `weights` are above 0. Each source gets at least one row a block.
    pub(super) fn new(weights: &[f64], seed: u64) -> Self {
        let total: f64 = weights.iter().sum();
        let exact: Vec<f64> = weights.iter().map(|weight| weight / total * BLOCK as f64).collect();
        let mut shares: Vec<u64> = exact.iter().map(|share| (share.floor() as u64).max(1)).collect();
        // Largest remainder first; then, if the ones at least were too much, off the largest share.
        let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
        by_remainder.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
        for at in by_remainder.iter().cycle() {
            if shares.iter().sum::<u64>() >= BLOCK {
                break;
            }
            shares[*at] += 1;
        }
        while shares.iter().sum::<u64>() > BLOCK {
            let largest = (0..shares.len()).max_by_key(|at| (shares[*at], std::cmp::Reverse(*at)));
            shares[largest.unwrap_or(0)] -= 1;
        }
        let owners: Vec<usize> =
            shares.iter().enumerate().flat_map(|(source, share)| vec![source; *share as usize]).collect();
        let mut taken = vec![0; shares.len()];
        let places = (0..BLOCK).map(|within| {
            let source = owners[permute(within, BLOCK, hash(&[seed, 0x6d69_7874])) as usize];
            taken[source] += 1;
            (source, taken[source] - 1)
        });
        Self { places: places.collect(), shares }
    }

    /// The source of row `index`, and how many rows that source gave before it.
    pub(super) fn row(&self, index: u64) -> (usize, u64) {
        let (source, before) = self.places[(index % BLOCK) as usize];
        (source, index / BLOCK * self.shares[source] + before)
    }
}

/// Row `index` of a source with `rows` rows that is read over and over, in another order each time.
pub(super) fn epoch_row(index: u64, rows: u64, source: usize, seed: u64) -> u64 {
    let (epoch, within) = (index / rows, index % rows);
    permute(within, rows, hash(&[seed, source as u64, epoch, 0x726f_7773]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_weights_and_no_row_is_left_out() {
        let mixture = Mixture::new(&[1.0, 2.0, 0.0001], 9);
        assert_eq!(mixture.shares.iter().sum::<u64>(), BLOCK);
        let mut seen = vec![Vec::new(); 3];
        for index in 0..3 * BLOCK {
            let (source, row) = mixture.row(index);
            seen[source].push(row);
        }
        for rows in &seen {
            assert!(rows.iter().copied().eq(0..rows.len() as u64), "in order");
        }
        let share = seen[1].len() as f64 / (3 * BLOCK) as f64;
        assert!((share - 2.0 / 3.0).abs() < 1e-3, "{share}");
        assert_eq!(seen[2].len(), 3);
    }

    #[test]
    fn many_small_weights() {
        let mut weights = vec![1e-9; 100];
        weights.push(1.0);
        let mixture = Mixture::new(&weights, 0);
        assert_eq!(mixture.shares.iter().sum::<u64>(), BLOCK);
        assert!(mixture.shares.iter().all(|share| *share >= 1));
    }
}
