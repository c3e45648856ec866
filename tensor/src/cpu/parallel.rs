//! Work cut into tasks by shape alone, so that results do not depend on the number of threads.

use rayon::prelude::*;

/// Elements of one task of an elementwise loop: large against the cost of a task, small against the second-level cache.
pub(crate) const CHUNK: usize = 1 << 14;

/// Runs `f(first index, part)` over consecutive parts of `out` of `size` elements, in parallel.
pub(crate) fn chunks<T: Send>(out: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if out.is_empty() {
        return;
    }
    if out.len() <= size {
        return f(0, out);
    }
    out.par_chunks_mut(size).enumerate().for_each(|(i, part)| f(i * size, part));
}

/// [`chunks`] for parts that `work` elements of input stand behind each element of `out`.
pub(crate) fn weighted<T: Send>(out: &mut [T], work: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    chunks(out, (CHUNK / work.max(1)).max(1), f);
}

/// Runs `f(row number, row)` over rows of `out` of `len` elements, many small rows a task.
pub(crate) fn rows<T: Send>(out: &mut [T], len: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if out.is_empty() {
        return;
    }
    let per_task = (CHUNK / len).max(1);
    chunks(out, per_task * len, |start, part| {
        for (i, row) in part.chunks_exact_mut(len).enumerate() {
            f(start / len + i, row);
        }
    });
}

/// Rows of `row_len` elements that one task takes: about 16,384 elements, at least one row.
pub fn rows_per_task(row_len: usize) -> usize {
    (CHUNK / row_len.max(1)).max(1)
}
