//! Random numbers as a function of their arguments, for choices about documents and rows.
//!
//! The mixing step is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014), applied once for each argument.

/// A uniform 64-bit number, a function of `words` and their order.
pub fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0x6a09_e667_f3bc_c908, |state, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Maps a uniform 64-bit number to [0, 1).
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Maps a uniform 64-bit number to 0..n; 0 for n = 0.
pub fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// The place of `index` in a permutation of 0..n chosen by `key`, without a table: a four-round Feistel network
/// over the next even number of bits, applied again while it leads outside (cycle walking).
pub fn permute(index: u64, n: u64, key: u64) -> u64 {
    debug_assert!(index < n);
    if n < 2 {
        return index;
    }
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (hash(&[key, round, right]) & mask));
        }
        value = (left << half) | right;
        if value < n {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn permute_is_a_bijection(n in 1u64..3000, key: u64) {
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let to = permute(index, n, key) as usize;
                prop_assert!(!std::mem::replace(&mut seen[to], true));
            }
        }
    }

    #[test]
    fn permutations_differ_by_key_and_spread() {
        let n = 10_000;
        let fixed = (0..n).filter(|i| permute(*i, n, 1) == permute(*i, n, 2)).count();
        assert!(fixed < 10, "{fixed} of {n} places agree");
        // Neighbours must not stay neighbours.
        let near = (1..n).filter(|i| permute(*i, n, 1).abs_diff(permute(i - 1, n, 1)) < 10).count();
        assert!(near < 60, "{near}");
    }

    #[test]
    fn numbers_are_uniform() {
        let mean = (0..10_000).map(|i| unit(hash(&[7, i]))).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
        let mut counts = [0; 7];
        (0..7000).for_each(|i| counts[below(hash(&[i, 3]), 7) as usize] += 1);
        assert!(counts.iter().all(|c| (880..1120).contains(c)), "{counts:?}");
    }
}
