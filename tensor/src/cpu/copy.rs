//! Copies from a strided view into row-major memory.

use super::parallel::{self, CHUNK};
use super::walk::Walk;
use crate::{Element, Layout};
use rayon::prelude::*;

/// Rows that a transposing copy writes together: a cache line of f32.
const BAND: usize = 16;

/// Writes the elements that `layout` selects from `from` to `to`, row-major.
pub(crate) fn strided<T: Element>(from: &[T], layout: &Layout, to: &mut [T]) {
    let walk = Walk::new([layout]);
    let step = walk.steps[0];
    if let Some(rows) = walk.transposed().filter(|&rows| rows >= BAND && walk.inner >= BAND && step > 1) {
        return transposed(from, &walk, rows, to);
    }
    parallel::chunks(to, CHUNK, |start, to| {
        walk.runs(start, to.len(), |range, [at]| match step {
            0 => to[range].fill(from[at]),
            1 => {
                let n = range.len();
                to[range].copy_from_slice(&from[at..at + n]);
            }
            _ => {
                for (to, from) in to[range].iter_mut().zip(from[at..].iter().step_by(step)) {
                    *to = *from;
                }
            }
        });
    });
}

/// [`strided`] where neighbours in memory lie in different rows of the result, `rows` of them: bands of rows are
/// written together, so that each cache line is read once.
fn transposed<T: Element>(from: &[T], walk: &Walk<1>, rows: usize, to: &mut [T]) {
    let (columns, step) = (walk.inner, walk.steps[0]);
    let matrix = rows * columns;
    to.par_chunks_mut(matrix).enumerate().for_each(|(i, to)| {
        let mut base = 0;
        walk.runs(i * matrix, 1, |_, [at]| base = at);
        to.par_chunks_mut(BAND * columns).enumerate().for_each(|(band, to)| {
            let height = to.len() / columns;
            for column in 0..columns {
                let line = &from[base + band * BAND + column * step..][..height];
                for (row, &x) in line.iter().enumerate() {
                    to[row * columns + column] = x;
                }
            }
        });
    });
}
