//! Softmax of one row, and gradients through it.

use tensor::Float;
use tensor::cpu::lanes;

/// Fills `out` with `log softmax(z / temperature)`.
#[inline(always)]
pub(super) fn log_softmax<T: Float>(z: &[T], temperature: T, out: &mut Vec<T>) {
    out.clear();
    let inverse = T::ONE / temperature;
    let top = lanes::max(z) * inverse;
    out.extend(z.iter().map(|&z| z * inverse - top));
    let log_sum = lanes::sum_by(out.len(), |i| out[i].exp()).ln();
    for x in out.iter_mut() {
        *x -= log_sum;
    }
}

/// `log Σ exp(z)`.
#[inline(always)]
pub(super) fn log_sum_exp<T: Float>(z: &[T]) -> T {
    let top = lanes::max(z);
    top + lanes::sum_by(z.len(), |i| (z[i] - top).exp()).ln()
}

/// Adds `scale · ∂/∂z` of a function of `q = softmax(z)`, given `log q` and its slope with respect to q:
/// `q·(slope - Σ q·slope)`.
#[inline(always)]
pub(super) fn add_through_softmax<T: Float>(log_q: &[T], slope: &[T], scale: T, dz: &mut [T]) {
    let slope = &slope[..log_q.len()];
    let mean = lanes::sum_by(log_q.len(), |i| log_q[i].exp() * slope[i]);
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
