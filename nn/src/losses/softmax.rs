//! Softmax of one row, and gradients through it.

use tensor::Float;
use tensor::cpu::lanes;

/// Fills `out` with `log softmax(z / temperature)`.
#[inline(always)]
pub(super) fn log_softmax<T: Float>(z: &[T], temperature: T, out: &mut Vec<T>) {
    let inverse = T::ONE / temperature;
    let top = lanes::max(z) * inverse;
    out.resize(z.len(), T::ZERO);
    for (out, &z) in out.iter_mut().zip(z) {
        *out = z * inverse - top;
    }
    let log_sum = lanes::sum_map(
        out,
        #[inline(always)]
        |x| x.exp(),
    )
    .ln();
    for x in out.iter_mut() {
        *x -= log_sum;
    }
}

/// Fills `out` with `f(a, b)`.
#[inline(always)]
pub(super) fn fill_map2<T: Float>(out: &mut Vec<T>, a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    out.resize(a.len(), T::ZERO);
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
}

/// `log Σ exp(z)`.
#[inline(always)]
pub(super) fn log_sum_exp<T: Float>(z: &[T]) -> T {
    let top = lanes::max(z);
    top + lanes::sum_map(
        z,
        #[inline(always)]
        |z| (z - top).exp(),
    )
    .ln()
}

/// Adds `scale · ∂/∂z` of a function of `q = softmax(z)`, given `log q` and its slope with respect to q:
/// `q·(slope - Σ q·slope)`.
#[inline(always)]
pub(super) fn add_through_softmax<T: Float>(log_q: &[T], slope: &[T], scale: T, dz: &mut [T]) {
    let slope = &slope[..log_q.len()];
    let mean = lanes::sum_map2(
        log_q,
        slope,
        #[inline(always)]
        |lq, slope| lq.exp() * slope,
    );
    for ((dz, &lq), &slope) in dz.iter_mut().zip(log_q).zip(slope) {
        *dz += scale * lq.exp() * (slope - mean);
    }
}

/// `log q - log(w·q + (1-w)·p)` given `d = log p - log q`, that is `-log(w + (1-w)·e^d)`: the logarithm of a mixture would
/// lose it, being far larger where q is small.
#[inline(always)]
pub(super) fn over_mix<T: Float>(d: T, w: T, rest: T) -> T {
    let (near, far, up) = if d > T::ZERO { (rest, w, d) } else { (w, rest, T::ZERO) };
    -(up + (near + far * (-d.abs()).exp()).ln())
}
