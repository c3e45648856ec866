//! Loops of elementwise operations over strided operands.

use super::parallel::{self, CHUNK};
use super::simd;
use super::walk::Walk;
use crate::{Element, Layout};

/// `out[i] = f(a[i])`.
pub(crate) fn unary<T: Element, U: Element>(
    a: (&[T], &Layout),
    out: &mut [U],
    f: impl Fn(T) -> U + Copy + Send + Sync,
) {
    update(a, out, move |out, a| *out = f(a));
}

/// `f(&mut out[i], a[i])`.
pub(crate) fn update<T: Element, U: Element>(
    (a, layout): (&[T], &Layout),
    out: &mut [U],
    f: impl Fn(&mut U, T) + Copy + Send + Sync,
) {
    let walk = Walk::new([layout]);
    let step = walk.steps[0];
    parallel::chunks(out, CHUNK, |start, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                walk.runs(start, out.len(), |range, [at]| {
                    let out = &mut out[range];
                    match step {
                        1 => out.iter_mut().zip(&a[at..]).for_each(|(out, &a)| f(out, a)),
                        0 => {
                            let a = a[at];
                            out.iter_mut().for_each(|out| f(out, a));
                        }
                        _ => out.iter_mut().zip(a[at..].iter().step_by(step)).for_each(|(out, &a)| f(out, a)),
                    }
                });
            },
        );
    });
}

/// `out[i] = f(a[i], b[i])`.
pub(crate) fn binary<T: Element, S: Element, U: Element>(
    (a, a_layout): (&[T], &Layout),
    (b, b_layout): (&[S], &Layout),
    out: &mut [U],
    f: impl Fn(T, S) -> U + Copy + Send + Sync,
) {
    let walk = Walk::new([a_layout, b_layout]);
    parallel::chunks(out, CHUNK, |start, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                walk.runs(start, out.len(), |range, [i, j]| {
                    let out = &mut out[range];
                    let (a, b) = (&a[i..], &b[j..]);
                    match walk.steps {
                        [1, 1] => {
                            out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (&a, &b))| *out = f(a, b))
                        }
                        [1, 0] => {
                            let b = b[0];
                            out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a, b));
                        }
                        [0, 1] => {
                            let a = a[0];
                            out.iter_mut().zip(b).for_each(|(out, &b)| *out = f(a, b));
                        }
                        [p, q] => {
                            out.iter_mut().enumerate().for_each(|(n, out)| *out = f(a[n * p], b[n * q]))
                        }
                    }
                });
            },
        );
    });
}
