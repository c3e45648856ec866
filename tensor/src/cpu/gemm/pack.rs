//! Packing: operands are copied, converted to f32, into the order in which a kernel reads them.

use super::kernel::Kernel;
use super::source::PackSource;
use crate::cpu::simd::{self, Level};
use std::ops::Range;

/// Cuts `len` into the fewest parts of at most `max`, sizes differing by at most one, and returns part `i`.
#[inline(always)]
pub(crate) fn part(len: usize, max: usize, i: usize) -> Range<usize> {
    let parts = len.div_ceil(max);
    let (size, longer) = (len / parts, len % parts);
    let start = i * size + i.min(longer);
    start..start + size + usize::from(i < longer)
}

/// Floats between the rows of a block of A that is copied by rows. The padding keeps the rows of one tile out of
/// each other's cache sets.
pub(super) fn a_row_stride(kc: usize) -> usize {
    kc.next_multiple_of(16) + 16
}

/// Whether A is copied by rows (its rows are contiguous) or packed into columns of a tile.
pub(super) fn a_by_rows<S: PackSource>(a: &S) -> bool {
    a.col_stride() == 1
}

/// Packs A's block `rows x ks` to `dst`: by rows with [`a_row_stride`], or as tiles of [`part`] of at most
/// `kernel.mr` rows, each `tile_rows` x kc column by column.
///
/// # Safety
/// The block lies inside `a`; `dst` has room for rows times [`a_row_stride`] of floats.
pub(super) unsafe fn pack_a<S: PackSource>(
    kernel: &Kernel,
    a: S,
    rows: Range<usize>,
    ks: Range<usize>,
    dst: *mut f32,
) {
    // SAFETY: the caller's promise.
    simd::dispatch_at(
        kernel.level,
        #[inline(always)]
        || unsafe {
            match kernel.mr {
                _ if a_by_rows(&a) => copy_rows(a, rows, ks, dst),
                9..=16 => pack_columns::<S, 16>(kernel.mr, a, rows, ks, dst),
                5..=8 => pack_columns::<S, 8>(kernel.mr, a, rows, ks, dst),
                _ => pack_columns::<S, 4>(kernel.mr, a, rows, ks, dst),
            }
        },
    );
}

/// # Safety
/// See [`pack_a`].
#[inline(always)]
unsafe fn copy_rows<S: PackSource>(a: S, rows: Range<usize>, ks: Range<usize>, dst: *mut f32) {
    let stride = a_row_stride(ks.len());
    for (i, row) in rows.enumerate() {
        // SAFETY: the run is inside the block, and row i has its place in dst.
        unsafe { a.copy_row(row, ks.start, ks.len(), dst.add(i * stride)) };
    }
}

/// Rows of A that [`pack_columns`] takes at most.
pub(super) const MAX_ROWS: usize = 128;

/// Where tile `i`, starting at row `start` of the block, is packed: whole-vector stores spill over a tile's end.
#[inline(always)]
pub(super) fn a_tile_offset(i: usize, start: usize, kc: usize) -> usize {
    start * kc + i * 16
}

/// `W >= mr` floats are stored at a time, the surplus being overwritten by the next step's or lost in the gap.
///
/// # Safety
/// See [`pack_a`]; at most [`MAX_ROWS`] rows.
#[inline(always)]
unsafe fn pack_columns<S: PackSource, const W: usize>(
    mr: usize,
    a: S,
    rows: Range<usize>,
    ks: Range<usize>,
    dst: *mut f32,
) {
    let (at, m, kc) = (a.t(), rows.len(), ks.len());
    debug_assert!(m <= MAX_ROWS && mr <= W && W <= 16);
    let mut column = [0f32; MAX_ROWS + 16];
    let tiles = m.div_ceil(mr);
    let mut places = [(0, 0, 0); MAX_ROWS];
    for (i, place) in places.iter_mut().enumerate().take(tiles) {
        let tile = part(m, mr, i);
        *place = (tile.start, a_tile_offset(i, tile.start, kc), tile.len());
    }
    // Columns outermost: A's columns are read from memory once, in order.
    for (p, k) in ks.enumerate() {
        // SAFETY: the run is inside the block and fits the buffer; tile i has its place in dst, and W floats at any
        // of its steps end inside its gap.
        unsafe {
            at.copy_row(k, rows.start, m, column.as_mut_ptr());
            for &(row, offset, height) in &places[..tiles] {
                let from = column.as_ptr().add(row).cast::<[f32; W]>();
                let to = dst.add(offset + p * height);
                to.cast::<[f32; W]>().write_unaligned(from.read_unaligned());
            }
        }
    }
}

/// Packs `ks x cols` of B, at most `kernel.nr` columns, as kc rows of `kernel.nr`, missing columns as 0.
///
/// # Safety
/// The block lies inside `b`; `dst` has room for kc times `kernel.nr`.
pub(super) unsafe fn pack_b<S: PackSource>(
    kernel: &Kernel,
    b: S,
    ks: Range<usize>,
    cols: Range<usize>,
    dst: *mut f32,
) {
    // SAFETY: the caller's promise; `kernel.level` was checked when the kernel was chosen.
    unsafe {
        if b.row_stride() == 1 && b.col_stride() != 1 {
            match kernel.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    pack_b_transposed::<S, 16>(kernel, b, ks, cols, dst, super::avx512::transpose)
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => pack_b_transposed::<S, 8>(kernel, b, ks, cols, dst, super::avx2::transpose),
                _ => pack_b_transposed::<S, 4>(kernel, b, ks, cols, dst, transpose4),
            }
        } else {
            simd::dispatch_at(
                kernel.level,
                #[inline(always)]
                || match (cols.len() == kernel.nr, kernel.nr) {
                    (true, 32) => copy_b::<S, 32>(b, ks, cols.start, dst),
                    (true, 16) => copy_b::<S, 16>(b, ks, cols.start, dst),
                    (true, 8) => copy_b::<S, 8>(b, ks, cols.start, dst),
                    _ => copy_b_padded(b, ks, cols, kernel.nr, dst),
                },
            );
        }
    }
}

/// # Safety
/// See [`pack_b`]; `W` columns.
#[inline(always)]
unsafe fn copy_b<S: PackSource, const W: usize>(b: S, ks: Range<usize>, col: usize, dst: *mut f32) {
    for (p, k) in ks.enumerate() {
        // SAFETY: the run is inside the block, and row p has its place in dst.
        unsafe { b.copy_row(k, col, W, dst.add(p * W)) };
    }
}

/// # Safety
/// See [`pack_b`].
#[inline(always)]
unsafe fn copy_b_padded<S: PackSource>(b: S, ks: Range<usize>, cols: Range<usize>, nr: usize, dst: *mut f32) {
    for (p, k) in ks.enumerate() {
        // SAFETY: as in copy_b; the zeros end at the row's width nr.
        unsafe {
            let dst = dst.add(p * nr);
            b.copy_row(k, cols.start, cols.len(), dst);
            dst.add(cols.len()).write_bytes(0, nr - cols.len());
        }
    }
}

type Transpose = unsafe fn(*const f32, usize, usize, usize, *mut f32, usize);

/// B whose columns are contiguous: blocks of `W` columns are transposed in registers, straight from memory if they
/// are f32, through a small buffer otherwise.
///
/// # Safety
/// See [`pack_b`]; `transpose` handles `W` columns and runs on this CPU.
unsafe fn pack_b_transposed<S: PackSource, const W: usize>(
    kernel: &Kernel,
    b: S,
    ks: Range<usize>,
    cols: Range<usize>,
    dst: *mut f32,
    transpose: Transpose,
) {
    const RUN: usize = 64;
    let bt = b.t();
    let mut staged = [[0f32; RUN]; W];
    for j in (0..kernel.nr).step_by(W) {
        // SAFETY: every read below is at a column and step inside the block; the writes are the W lanes at j of
        // steps inside kc, and W divides nr.
        unsafe {
            if j >= cols.len() {
                for p in 0..ks.len() {
                    dst.add(p * kernel.nr + j).write_bytes(0, W);
                }
                continue;
            }
            let width = (cols.len() - j).min(W);
            if let Some(ptr) = bt.as_f32() {
                let stride = bt.row_stride();
                let src = ptr.add((cols.start + j) * stride + ks.start);
                transpose(src, stride, width, ks.len(), dst.add(j), kernel.nr);
                continue;
            }
            for p in (0..ks.len()).step_by(RUN) {
                let len = (ks.len() - p).min(RUN);
                simd::dispatch_at(
                    kernel.level,
                    #[inline(always)]
                    || {
                        for (i, staged) in staged.iter_mut().enumerate().take(width) {
                            bt.copy_row(cols.start + j + i, ks.start + p, len, staged.as_mut_ptr());
                        }
                    },
                );
                let dst = dst.add(p * kernel.nr + j);
                transpose(staged.as_ptr().cast(), RUN, width, len, dst, kernel.nr);
            }
        }
    }
}

/// Portable form of the SIMD transposes, 4 columns wide.
///
/// # Safety
/// `src` covers `rows` (1..=4) runs of `len`, `dst` covers `len` runs of 4.
unsafe fn transpose4(
    src: *const f32,
    src_stride: usize,
    rows: usize,
    len: usize,
    dst: *mut f32,
    dst_stride: usize,
) {
    for p in 0..len {
        for i in 0..4 {
            // SAFETY: i < rows and p < len when read, p < len when written.
            unsafe {
                let value = if i < rows { *src.add(i * src_stride + p) } else { 0.0 };
                *dst.add(p * dst_stride + i) = value;
            }
        }
    }
}
