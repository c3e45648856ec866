//! Reductions of slices in a fixed order: sixteen running results, combined as a tree. They vectorise, and give the
//! same bits on every machine and thread count. Slices given together have the same length.
//!
//! Closures passed in should be `#[inline(always)]`: one that stays a call keeps the loop scalar.

use crate::Float;

const LANES: usize = 16;

/// Joins the lanes as a tree.
#[inline(always)]
fn join<T: Float>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
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
    sum_map(
        x,
        #[inline(always)]
        |x| x,
    )
}

/// Sum of products.
#[inline(always)]
pub fn dot<T: Float>(x: &[T], y: &[T]) -> T {
    sum_map2(
        x,
        y,
        #[inline(always)]
        |x, y| x * y,
    )
}

/// Sum of `f(x)`.
#[inline(always)]
pub fn sum_map<T: Copy, U: Float>(x: &[T], f: impl Fn(T) -> U) -> U {
    let mut lanes = [U::ZERO; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    join(lanes, |a, b| a + b)
}

/// Sum of `f(x, y)`.
#[inline(always)]
pub fn sum_map2<T: Copy, U: Float>(x: &[T], y: &[T], f: impl Fn(T, T) -> U) -> U {
    let mut lanes = [U::ZERO; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y[..x.len()].chunks_exact(LANES));
    let rest = xs.remainder().iter().zip(ys.remainder());
    for (x, y) in xs.zip(ys) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(rest) {
        *lane += f(x, y);
    }
    join(lanes, |a, b| a + b)
}

/// Sum of `f(x, y, z)`.
#[inline(always)]
pub fn sum_map3<T: Copy, U: Float>(x: &[T], y: &[T], z: &[T], f: impl Fn(T, T, T) -> U) -> U {
    let mut lanes = [U::ZERO; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y[..x.len()].chunks_exact(LANES));
    let zs = z[..x.len()].chunks_exact(LANES);
    let rest = xs.remainder().iter().zip(ys.remainder()).zip(zs.remainder());
    for ((x, y), z) in xs.zip(ys).zip(zs) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane], z[lane]);
        }
    }
    for (lane, ((&x, &y), &z)) in lanes.iter_mut().zip(rest) {
        *lane += f(x, y, z);
    }
    join(lanes, |a, b| a + b)
}

/// Largest element; negative infinity for none. NaN is passed over.
#[inline(always)]
pub fn max<T: Float>(x: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    join(lanes, |a, b| if b > a { b } else { a })
}
