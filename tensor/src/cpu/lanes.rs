//! Reductions of slices in a fixed order: sixteen running results, combined as a tree. They vectorise, and give the
//! same bits on every machine and thread count.

use crate::Float;

const LANES: usize = 16;

#[inline(always)]
fn fold<T: Float>(n: usize, start: T, at: impl Fn(T, usize) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = at(*sum, i + lane);
        }
        i += LANES;
    }
    for (lane, i) in (whole..n).enumerate() {
        lanes[lane] = at(lanes[lane], i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of the elements.
#[inline(always)]
pub fn sum<T: Float>(x: &[T]) -> T {
    fold(x.len(), T::ZERO, |sum, i| sum + x[i], |a, b| a + b)
}

/// Sum of products. The slices have the same length.
#[inline(always)]
pub fn dot<T: Float>(x: &[T], y: &[T]) -> T {
    let y = &y[..x.len()];
    fold(x.len(), T::ZERO, |sum, i| sum + x[i] * y[i], |a, b| a + b)
}

/// Sum of `f(i)` over `0..n`.
#[inline(always)]
pub fn sum_by<T: Float>(n: usize, f: impl Fn(usize) -> T) -> T {
    fold(n, T::ZERO, |sum, i| sum + f(i), |a, b| a + b)
}

/// Largest element; negative infinity for none. NaN is passed over.
#[inline(always)]
pub fn max<T: Float>(x: &[T]) -> T {
    fold(
        x.len(),
        T::NEG_INFINITY,
        |best, i| if x[i] > best { x[i] } else { best },
        |a, b| if b > a { b } else { a },
    )
}
