//! Loops of elementwise operations over strided operands.
//!
//! Everything below `dispatch` is forced inline and written as plain loops: what stays a call runs without wide registers.

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
    update(
        a,
        out,
        #[inline(always)]
        move |out, a| *out = f(a),
    );
}

/// `f(&mut out[i], a[i])`.
pub(crate) fn update<T: Element, U: Element>(
    (a, layout): (&[T], &Layout),
    out: &mut [U],
    f: impl Fn(&mut U, T) + Copy + Send + Sync,
) {
    let walk = Walk::new([layout]);
    parallel::chunks(out, CHUNK, |start, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                walk.runs(
                    start,
                    out.len(),
                    #[inline(always)]
                    |range, [at]| update_run(&a[at..], walk.steps[0], &mut out[range], f),
                );
            },
        );
    });
}

#[inline(always)]
fn update_run<T: Copy, U>(a: &[T], step: usize, out: &mut [U], f: impl Fn(&mut U, T)) {
    // A loop of its own for each common case, so that it vectorises.
    match step {
        1 => {
            for (out, &a) in out.iter_mut().zip(a) {
                f(out, a);
            }
        }
        0 => {
            let a = a[0];
            for out in out {
                f(out, a);
            }
        }
        _ => {
            for (out, &a) in out.iter_mut().zip(a.iter().step_by(step)) {
                f(out, a);
            }
        }
    }
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
                walk.runs(
                    start,
                    out.len(),
                    #[inline(always)]
                    |range, [i, j]| binary_run(&a[i..], &b[j..], walk.steps, &mut out[range], f),
                );
            },
        );
    });
}

#[inline(always)]
fn binary_run<T: Copy, S: Copy, U>(
    a: &[T],
    b: &[S],
    steps: [usize; 2],
    out: &mut [U],
    f: impl Fn(T, S) -> U,
) {
    match steps {
        [1, 1] => {
            for (out, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
                *out = f(a, b);
            }
        }
        [1, 0] => {
            let b = b[0];
            for (out, &a) in out.iter_mut().zip(a) {
                *out = f(a, b);
            }
        }
        [0, 1] => {
            let a = a[0];
            for (out, &b) in out.iter_mut().zip(b) {
                *out = f(a, b);
            }
        }
        [p, q] => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = f(a[i * p], b[i * q]);
            }
        }
    }
}
