//! Blocking and parallelism of the f32 product.
//!
//! C is cut into tiles by shape. One task computes a tile, adding the blocks of K in order, so an element's value
//! depends on the shape and the SIMD level alone.

use super::kernel::{Kernel, Tile};
use super::pack::{MAX_ROWS, a_by_rows, a_row_stride, a_tile_offset, pack_a, pack_b, part};
use super::scratch::with_scratch;
use super::source::PackSource;
use rayon::prelude::*;
use std::ops::Range;

/// Steps of K a block has at most: long enough that reading and writing C again costs little.
const KC: usize = 512;
/// Rows and columns of a task's tile at most: its blocks of A and B stay in the L2 cache.
const MC: usize = 112;
const NC: usize = 512;
const _: () = assert!(MC <= MAX_ROWS);
/// Floats of packed B that exist at one time.
const PACKED_B: usize = 1 << 20;
/// Multiply-adds below which starting other threads costs more than it gains.
const SERIAL: usize = 1 << 20;
/// Tasks wanted, so that many threads can share a product and finish together.
const TASKS: usize = 16;

/// A whole product `C = alpha·A·B + beta·C`, with C of A's rows and B's columns.
pub(super) struct Product<A, B> {
    pub kernel: Kernel,
    pub alpha: f32,
    pub a: A,
    pub b: B,
    pub beta: f32,
    pub c: *mut f32,
    pub ldc: usize,
    /// Whether tiles that lie below the diagonal of C are left out.
    pub upper: bool,
}

// SAFETY: tasks write disjoint tiles of C, which the caller lends exclusively.
unsafe impl<A: Sync, B: Sync> Sync for Product<A, B> {}

#[derive(Clone, Copy)]
struct Packed(*mut f32);
// SAFETY: tasks write disjoint panels, and all of them are written before any is read.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

fn for_each(parallel: bool, tasks: usize, f: impl Fn(usize) + Sync) {
    if parallel && tasks > 1 {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
    } else {
        (0..tasks).for_each(f);
    }
}

impl<A: PackSource, B: PackSource> Product<A, B> {
    /// Computes C, on rayon's current pool if `parallel` and worth it.
    ///
    /// # Safety
    /// `a.cols() == b.rows()`; `c` is valid for `a.rows()` rows of `b.cols()` elements, `ldc` apart, and used by
    /// nobody else meanwhile.
    pub unsafe fn run(&self, parallel: bool) {
        let (m, n, k) = (self.a.rows(), self.b.cols(), self.a.cols());
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            // SAFETY: the caller's promise about C.
            unsafe { self.scale_c() };
            return;
        }
        let parallel = parallel && m.saturating_mul(n).saturating_mul(k) > SERIAL;
        let nr = self.kernel.nr;
        let (mut mc, mut nc) = (MC, NC);
        if parallel {
            while m.div_ceil(mc) * n.div_ceil(nc) < TASKS && nc > 128 {
                nc /= 2;
            }
            while m.div_ceil(mc) * n.div_ceil(nc) < TASKS && mc > 28 {
                mc /= 2;
            }
        }
        let strips = m.div_ceil(mc);
        let panels = n.div_ceil(nr);
        // With one strip of rows nobody else would use the packed B, so each task packs its own panels.
        if strips == 1 {
            for_each(parallel, panels.div_ceil(nc / nr), |j| {
                // SAFETY: the tiles are disjoint parts of C.
                unsafe { self.tile(0..m, part(panels, nc / nr, j), 0..k, None) };
            });
            return;
        }
        let blocks = k.div_ceil(KC);
        let group_blocks = (PACKED_B / KC / nc).clamp(1, blocks);
        let group_k = group_blocks * KC;
        let group_panels = (PACKED_B / group_k.min(k) / nr).clamp(nc / nr, panels.max(nc / nr));
        with_scratch(group_k.min(k.next_multiple_of(KC)) * group_panels.min(panels) * nr * 4, |scratch| {
            let packed = Packed(scratch.cast());
            for jg in (0..panels).step_by(group_panels) {
                let group = jg..(jg + group_panels).min(panels);
                for bg in (0..blocks).step_by(group_blocks) {
                    let last = (bg + group_blocks).min(blocks) - 1;
                    let ks = part(k, KC, bg).start..part(k, KC, last).end;
                    // SAFETY: the scratch holds the group; its panels are disjoint.
                    unsafe { self.pack_group(parallel, group.clone(), ks.clone(), packed) };
                    let tiles = group.len().div_ceil(nc / nr);
                    for_each(parallel, strips * tiles, |t| {
                        let rows = part(m, mc, t / tiles);
                        let cols = part(group.len(), nc / nr, t % tiles);
                        let cols = group.start + cols.start..group.start + cols.end;
                        if self.upper && cols.end * nr <= rows.start {
                            return;
                        }
                        // SAFETY: the tiles are disjoint parts of C, and B's group is packed.
                        unsafe { self.tile(rows, cols, ks.clone(), Some((packed, group.clone()))) };
                    });
                }
            }
        });
    }

    /// # Safety
    /// As for [`Product::run`].
    unsafe fn scale_c(&self) {
        for i in 0..self.a.rows() {
            for j in 0..self.b.cols() {
                // SAFETY: inside C.
                unsafe {
                    let c = self.c.add(i * self.ldc + j);
                    *c = if self.beta == 0.0 { 0.0 } else { self.beta * *c };
                }
            }
        }
    }

    /// A's elements, if the kernel may as well read them where they are.
    fn direct_a(&self) -> Option<*const f32> {
        let a = self.a.as_f32()?;
        if self.a.col_stride() == 1 {
            // Rows a multiple of 4 KiB apart would fight for one set of the L1 cache.
            (!self.a.row_stride().is_multiple_of(1024)).then_some(a)
        } else {
            (self.a.row_stride() == 1).then_some(a)
        }
    }

    fn panel_cols(&self, panel: usize) -> Range<usize> {
        panel * self.kernel.nr..((panel + 1) * self.kernel.nr).min(self.b.cols())
    }

    /// Blocks of K inside `ks`, which starts and ends at block borders.
    fn k_blocks(&self, ks: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let k = self.a.cols();
        (0..k.div_ceil(KC))
            .map(move |i| part(k, KC, i))
            .filter(move |b| ks.start <= b.start && b.end <= ks.end)
    }

    /// Packs `panels` of B over `ks`: block after block of K, panel after panel.
    ///
    /// # Safety
    /// `packed` has room for the panels over `ks`.
    unsafe fn pack_group(&self, parallel: bool, panels: Range<usize>, ks: Range<usize>, packed: Packed) {
        let base = move || packed;
        for_each(parallel, panels.len().div_ceil(4), |task| {
            for panel in (0..panels.len()).skip(task * 4).take(4) {
                for block in self.k_blocks(ks.clone()) {
                    let offset = self.packed_offset(&panels, &ks, &block, panel);
                    let cols = self.panel_cols(panels.start + panel);
                    // SAFETY: the block lies inside B, and each has its own place in the scratch.
                    unsafe { pack_b(&self.kernel, self.b, block, cols, base().0.add(offset)) };
                }
            }
        });
    }

    fn packed_offset(
        &self,
        panels: &Range<usize>,
        ks: &Range<usize>,
        block: &Range<usize>,
        panel: usize,
    ) -> usize {
        ((block.start - ks.start) * panels.len() + panel * block.len()) * self.kernel.nr
    }

    /// Computes `rows` x `panels` of C over `ks`. `packed` is B over `ks` with the panels it starts at; without it
    /// the panels are packed here.
    ///
    /// # Safety
    /// The tile lies inside C and is written by nobody else.
    unsafe fn tile(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        ks: Range<usize>,
        packed: Option<(Packed, Range<usize>)>,
    ) {
        let kernel = &self.kernel;
        let by_rows = a_by_rows(&self.a);
        let direct_a = self.direct_a();
        let a_floats = if direct_a.is_some() { 0 } else { rows.len() * a_row_stride(KC) };
        let b_floats = if packed.is_some() { 0 } else { KC * kernel.nr };
        with_scratch((a_floats + b_floats) * 4, |scratch| {
            let b_scratch: *mut f32 = scratch.cast();
            // SAFETY: the scratch has b_floats and then a_floats.
            let a_scratch = unsafe { b_scratch.add(b_floats) };
            for block in self.k_blocks(ks.clone()) {
                let kc = block.len();
                if direct_a.is_none() {
                    // SAFETY: the block lies inside A, and the scratch has room for it.
                    unsafe { pack_a(kernel, self.a, rows.clone(), block.clone(), a_scratch) };
                }
                // Pointer to A's row of a tile and the stride the kernel needs.
                let a_tile = |i: usize, tile: &Range<usize>| {
                    let (rs, cs) = (self.a.row_stride(), self.a.col_stride());
                    let row = rows.start + tile.start;
                    // SAFETY: inside A, or where pack_a put the tile.
                    unsafe {
                        match direct_a {
                            Some(a) => (a.add(row * rs + block.start * cs), if by_rows { rs } else { cs }),
                            None if by_rows => {
                                let stride = a_row_stride(kc);
                                (a_scratch.cast_const().add(tile.start * stride), stride)
                            }
                            None => {
                                (a_scratch.cast_const().add(a_tile_offset(i, tile.start, kc)), tile.len())
                            }
                        }
                    }
                };
                let beta = if block.start == 0 { self.beta } else { 1.0 };
                for panel in panels.clone() {
                    let cols = self.panel_cols(panel);
                    let b = match &packed {
                        Some((packed, group)) => {
                            let offset = self.packed_offset(group, &ks, &block, panel - group.start);
                            // SAFETY: where pack_group put the panel.
                            unsafe { packed.0.add(offset) }
                        }
                        None => {
                            // SAFETY: the block lies inside B, and the scratch has room for a panel.
                            unsafe { pack_b(kernel, self.b, block.clone(), cols.clone(), b_scratch) };
                            b_scratch
                        }
                    };
                    for i in 0..rows.len().div_ceil(kernel.mr) {
                        let tile = part(rows.len(), kernel.mr, i);
                        let (a, lda) = a_tile(i, &tile);
                        // SAFETY: A's and B's blocks are packed as the kernel reads them; the tile is inside C.
                        unsafe {
                            kernel.run(&Tile {
                                k: kc,
                                a,
                                by_rows,
                                lda,
                                b,
                                ldb: kernel.nr,
                                c: self.c.add((rows.start + tile.start) * self.ldc + cols.start),
                                ldc: self.ldc,
                                rows: tile.len(),
                                cols: cols.len(),
                                alpha: self.alpha,
                                beta,
                            });
                        }
                    }
                }
            }
        });
    }
}
