//! Reductions in an order fixed by shape.
//!
//! A run of elements is cut into blocks of [`BLOCK`]; within a block element `i` goes to lane `i % LANES`, the lanes
//! are then combined in order, and the blocks after them in order. Sums run in f64 whatever the element type.

use super::parallel::{self, CHUNK};
use super::simd;
use crate::Float;
use rayon::prelude::*;

const BLOCK: usize = 4096;
const LANES: usize = 16;

/// One way to fold elements into a value.
pub(crate) trait Fold<T: Float>: Copy + Send + Sync {
    type Acc: Copy + Send + Sync;
    /// Its name among kernels.
    const NAME: &'static str;
    /// The value of no elements.
    const START: Self::Acc;
    fn step(acc: Self::Acc, x: T) -> Self::Acc;
    fn merge(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn finish(self, acc: Self::Acc) -> T;
    /// What the accumulated value is divided by.
    fn divisor(self) -> f64 {
        1.0
    }
}

/// Sum of the elements, divided by `divisor`.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub divisor: f64,
}

/// Square root of the sum of squares.
#[derive(Clone, Copy)]
pub(crate) struct Norm;

/// Largest element; NaN if any is.
#[derive(Clone, Copy)]
pub(crate) struct Max;

/// Smallest element; NaN if any is.
#[derive(Clone, Copy)]
pub(crate) struct Min;

impl<T: Float> Fold<T> for Sum {
    type Acc = f64;
    const NAME: &'static str = "sum";
    const START: f64 = 0.0;
    #[inline(always)]
    fn step(acc: f64, x: T) -> f64 {
        acc + x.to_f64()
    }
    #[inline(always)]
    fn merge(a: f64, b: f64) -> f64 {
        a + b
    }
    #[inline(always)]
    fn finish(self, acc: f64) -> T {
        T::from_f64(acc / self.divisor)
    }
    fn divisor(self) -> f64 {
        self.divisor
    }
}

impl<T: Float> Fold<T> for Norm {
    type Acc = f64;
    const NAME: &'static str = "norm";
    const START: f64 = 0.0;
    #[inline(always)]
    fn step(acc: f64, x: T) -> f64 {
        acc + x.to_f64() * x.to_f64()
    }
    #[inline(always)]
    fn merge(a: f64, b: f64) -> f64 {
        a + b
    }
    #[inline(always)]
    fn finish(self, acc: f64) -> T {
        T::from_f64(acc.sqrt())
    }
}

/// The larger of two, NaN if either is.
#[inline(always)]
#[allow(clippy::eq_op, reason = "only NaN differs from itself")]
pub(crate) fn maximum<T: Float>(a: T, b: T) -> T {
    if a >= b || a != a { a } else { b }
}

/// The smaller of two, NaN if either is.
#[inline(always)]
#[allow(clippy::eq_op, reason = "only NaN differs from itself")]
pub(crate) fn minimum<T: Float>(a: T, b: T) -> T {
    if a <= b || a != a { a } else { b }
}

impl<T: Float> Fold<T> for Max {
    type Acc = T;
    const NAME: &'static str = "max";
    const START: T = T::NEG_INFINITY;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        maximum(acc, x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        maximum(a, b)
    }
    #[inline(always)]
    fn finish(self, acc: T) -> T {
        acc
    }
}

impl<T: Float> Fold<T> for Min {
    type Acc = T;
    const NAME: &'static str = "min";
    const START: T = T::INFINITY;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        minimum(acc, x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        minimum(a, b)
    }
    #[inline(always)]
    fn finish(self, acc: T) -> T {
        acc
    }
}

#[inline(always)]
fn block<T: Float, F: Fold<T>>(xs: &[T]) -> F::Acc {
    let mut lanes = [F::START; LANES];
    let groups = xs.chunks_exact(LANES);
    for (lane, &x) in lanes.iter_mut().zip(groups.remainder()) {
        *lane = F::step(*lane, x);
    }
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = F::step(*lane, x);
        }
    }
    let mut acc = F::START;
    for lane in lanes {
        acc = F::merge(acc, lane);
    }
    acc
}

/// Folds one run of elements on the calling thread.
#[inline(always)]
pub(crate) fn run<T: Float, F: Fold<T>>(xs: &[T]) -> F::Acc {
    let mut acc = F::START;
    for xs in xs.chunks(BLOCK) {
        acc = F::merge(acc, block::<T, F>(xs));
    }
    acc
}

/// Folds each of `out.len()` consecutive rows of `x`.
pub(crate) fn rows<T: Float, F: Fold<T>>(fold: F, x: &[T], out: &mut [T]) {
    let n = x.len() / out.len().max(1);
    // Few long rows are cut within, in the same order of combination, so that both ways give the same bits.
    if n >= 4 * BLOCK && out.len() < 64 {
        for (out, row) in out.iter_mut().zip(x.chunks_exact(n)) {
            let parts: Vec<F::Acc> = row
                .par_chunks(BLOCK)
                .map(|xs| {
                    simd::dispatch(
                        #[inline(always)]
                        || block::<T, F>(xs),
                    )
                })
                .collect();
            *out = fold.finish(parts.into_iter().fold(F::START, F::merge));
        }
        return;
    }
    parallel::weighted(out, n, |start, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = fold.finish(run::<T, F>(&x[(start + i) * n..][..n]));
                }
            },
        );
    });
}

/// Folds the middle axis of `x`, row-major `[outer, n, inner]`, into `out` `[outer, inner]`, each column in order.
pub(crate) fn columns<T: Float, F: Fold<T>>(fold: F, x: &[T], n: usize, inner: usize, out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    const TILE: usize = 256;
    let tiles = inner.div_ceil(TILE);
    let fold_tile = |outer: usize, tile: usize, out: &mut [T]| {
        simd::dispatch(
            #[inline(always)]
            || {
                let mut acc = [F::START; TILE];
                let acc = &mut acc[..out.len()];
                for i in 0..n {
                    let row = &x[(outer * n + i) * inner + tile * TILE..][..out.len()];
                    for (acc, &x) in acc.iter_mut().zip(row) {
                        *acc = F::step(*acc, x);
                    }
                }
                for (out, &acc) in out.iter_mut().zip(acc.iter()) {
                    *out = fold.finish(acc);
                }
            },
        );
    };
    let outer_per_task = (CHUNK / (n * inner).max(1)).max(1);
    let tasks = out.par_chunks_mut(inner * outer_per_task).enumerate();
    tasks.for_each(|(task, out)| {
        for (i, out) in out.chunks_mut(inner).enumerate() {
            let outer = task * outer_per_task + i;
            if tiles > 1 && n * inner > CHUNK {
                let each = out.par_chunks_mut(TILE).enumerate();
                each.for_each(|(tile, out)| fold_tile(outer, tile, out));
            } else {
                out.chunks_mut(TILE).enumerate().for_each(|(tile, out)| fold_tile(outer, tile, out));
            }
        }
    });
}

/// Position of the first largest element of a row that is not empty; NaN counts as larger than everything.
#[allow(clippy::eq_op, reason = "only NaN differs from itself")]
pub(crate) fn argmax<T: Float>(row: &[T]) -> u32 {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        let top = row[best];
        if x > top || (x != x && top == top) {
            best = i;
        }
    }
    best as u32
}
