//! Copies from a strided view into row-major memory.

use super::parallel::{self, CHUNK};
use super::walk::Walk;
use crate::{Element, Layout};

/// Writes the elements that `layout` selects from `from` to `to`, row-major.
pub(crate) fn strided<T: Element>(from: &[T], layout: &Layout, to: &mut [T]) {
    let walk = Walk::new([layout]);
    let step = walk.steps[0];
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
