//! Softmax of rows.

use super::reduce::{Max, Sum, run};
use super::{parallel, simd};
use crate::Float;

/// Writes the softmax of each row of `x`, of length `n`, or its logarithm.
///
/// e^(x - max) is computed in the element type and summed in f64.
pub(crate) fn rows<T: Float>(x: &[T], n: usize, log: bool, out: &mut [T]) {
    parallel::rows(out, n, |row, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                let x = &x[row * n..][..n];
                let max = run::<T, Max>(x);
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = (x - max).exp();
                }
                let sum = run::<T, Sum>(out);
                if log {
                    let shift = T::from_f64(sum.ln());
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = (x - max) - shift;
                    }
                } else {
                    let scale = T::from_f64(1.0 / sum);
                    for out in out.iter_mut() {
                        *out *= scale;
                    }
                }
            },
        );
    });
}
