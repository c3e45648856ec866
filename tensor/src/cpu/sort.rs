//! Sorting of rows by integer keys that hold value and position, so that any sort is stable and any selection unique.

use super::parallel;
use crate::Float;
use rayon::prelude::*;

/// Floats that map to integers of the same order.
pub(crate) trait SortKey: Float {
    type Key: Ord + Copy + Send;
    /// A key that orders by value, then by position. Zeros of both signs are equal; NaN is larger than everything.
    fn key(self, position: u32, descending: bool) -> Self::Key;
    /// The position in a key.
    fn position(key: Self::Key) -> u32;
}

impl SortKey for f32 {
    type Key = u64;
    fn key(self, position: u32, descending: bool) -> u64 {
        // Adding zero makes -0 into 0. Negative numbers have all bits flipped, others the sign bit.
        let bits = (self + 0.0).to_bits();
        let sign = (bits as i32 >> 31) as u32;
        let ascending = if self.is_nan() { u32::MAX } else { bits ^ (sign | 1 << 31) };
        u64::from(if descending { !ascending } else { ascending }) << 32 | u64::from(position)
    }
    fn position(key: u64) -> u32 {
        key as u32
    }
}

impl SortKey for f64 {
    type Key = (u64, u32);
    fn key(self, position: u32, descending: bool) -> (u64, u32) {
        let bits = (self + 0.0).to_bits();
        let sign = (bits as i64 >> 63) as u64;
        let ascending = if self.is_nan() { u64::MAX } else { bits ^ (sign | 1 << 63) };
        (if descending { !ascending } else { ascending }, position)
    }
    fn position(key: (u64, u32)) -> u32 {
        key.1
    }
}

/// For each row of `x`, of length `n`, writes the first `k` positions of its sorted order and the values there.
pub(crate) fn rows<T: SortKey>(
    x: &[T],
    n: usize,
    k: usize,
    descending: bool,
    values: &mut [T],
    positions: &mut [u32],
) {
    if k == 0 || values.is_empty() {
        return;
    }
    let per_task = (parallel::CHUNK / 8 / n).max(1);
    let outputs = values.par_chunks_mut(per_task * k).zip(positions.par_chunks_mut(per_task * k));
    outputs.zip(x.par_chunks(per_task * n)).for_each(|((values, positions), x)| {
        let mut keys = Vec::with_capacity(n);
        let outputs = values.chunks_exact_mut(k).zip(positions.chunks_exact_mut(k));
        for ((values, positions), x) in outputs.zip(x.chunks_exact(n)) {
            keys.clear();
            keys.extend(x.iter().enumerate().map(|(i, &x)| x.key(i as u32, descending)));
            if k < n {
                keys.select_nth_unstable(k);
            }
            keys[..k].sort_unstable();
            for ((value, position), &key) in values.iter_mut().zip(positions).zip(&keys) {
                *position = T::position(key);
                *value = x[*position as usize];
            }
        }
    });
}
