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

/// `log(w·e^a + (1-w)·e^b)`, 0 < w < 1, given `ln w` and `ln(1-w)`.
#[inline(always)]
pub(super) fn log_mix<T: Float>(a: T, b: T, ln_w: T, ln_rest: T) -> T {
    let (a, b) = (a + ln_w, b + ln_rest);
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    high + (T::ONE + (low - high).exp()).ln()
}
