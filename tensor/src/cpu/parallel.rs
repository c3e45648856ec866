//! How loops are cut for rayon: by shape alone, so that results never depend on the number of threads.

/// Rows of `row_len` elements that one task takes: about 16,384 elements, at least one row.
pub fn rows_per_task(row_len: usize) -> usize {
    (16_384 / row_len.max(1)).max(1)
}
