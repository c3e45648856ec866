//! Blocking and parallelism of the integer product.

use super::kernel::{Kernel, Tile};
use super::packed::{GROUP, NR, PackedTernary};
use crate::cpu::gemm::MatMut;
use crate::cpu::gemm::pack::part;
use crate::cpu::gemm::scratch::with_scratch;
use crate::cpu::simd::{self, Level};
use rayon::prelude::*;
use std::ops::Range;

/// Rows and panels of a task's tile at most.
const MC: usize = 112;
const PANELS: usize = 16;
/// Multiply-adds below which starting other threads costs more than it gains.
const SERIAL: usize = 1 << 21;
/// Tasks wanted, so that many threads can share a product and finish together.
const TASKS: usize = 16;

/// `y[i, j] = f32(Σ_p x[i, p]·w[j, p]) · (gamma / s[i])` on rayon's current pool.
///
/// `x` holds activation codes, row-major `[m, in]`, `s` the scale of each row, `y` is `[m, out]`. The sum is exact in
/// i32 for `in` up to 8 million; division and product are single IEEE f32 operations.
///
/// # Panics
/// If the shapes do not fit.
pub fn ternary_gemm(x: &[i8], s: &[f32], w: &PackedTernary, gamma: f32, y: MatMut<f32>) {
    ternary_gemm_at(simd::level(), x, s, w, gamma, y);
}

/// [`ternary_gemm`] with the kernels of a given SIMD level, lowered to what the machine has.
///
/// # Panics
/// As [`ternary_gemm`].
pub fn ternary_gemm_at(level: Level, x: &[i8], s: &[f32], w: &PackedTernary, gamma: f32, mut y: MatMut<f32>) {
    let (m, n, k) = (s.len(), w.out_features(), w.in_features());
    assert!(
        x.len() == m * k && y.rows() == m && y.cols() == n,
        "{} activation codes and {m} scales for a ternary weight [{n}, {k}] and an output [{}, {}]",
        x.len(),
        y.rows(),
        y.cols()
    );
    let ldy = y.row_stride();
    let product = Product { kernel: Kernel::at(level), x, s, w, gamma, y: y.as_mut_ptr(), ldy };
    let panels = n.div_ceil(NR);
    let (mut mc, mut pc) = (MC, PANELS);
    let serial = m * n * k <= SERIAL;
    if !serial {
        while m.div_ceil(mc) * panels.div_ceil(pc) < TASKS && pc > 4 {
            pc /= 2;
        }
        while m.div_ceil(mc) * panels.div_ceil(pc) < TASKS && mc > 28 {
            mc /= 2;
        }
    }
    let across = panels.div_ceil(pc);
    let task = |t: usize| {
        // SAFETY: the tiles are disjoint parts of y, which is borrowed exclusively.
        unsafe { product.tile(part(m, mc, t / across), part(panels, pc, t % across)) };
    };
    let tasks = m.div_ceil(mc) * across;
    if serial || tasks == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

struct Product<'a> {
    kernel: Kernel,
    x: &'a [i8],
    s: &'a [f32],
    w: &'a PackedTernary,
    gamma: f32,
    y: *mut f32,
    ldy: usize,
}

// SAFETY: tasks write disjoint tiles of y, which the caller lends exclusively.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    /// # Safety
    /// `rows` and `panels` lie inside y, and nobody else writes there.
    unsafe fn tile(&self, rows: Range<usize>, panels: Range<usize>) {
        let (n, k) = (self.w.out_features(), self.w.in_features());
        let steps = k.div_ceil(GROUP);
        let (mut sums, mut scales) = ([0i32; MC], [0f32; MC]);
        for (i, row) in rows.clone().enumerate() {
            sums[i] = self.kernel.sum(&self.x[row * k..(row + 1) * k]);
            scales[i] = self.gamma / self.s[row];
        }
        // Rows are copied if reading whole groups would pass their end, or if rows 4 KiB apart would fight for one
        // set of the L1 cache.
        let copy = k % GROUP != 0 || (k % 4096 == 0 && k > 0 && rows.len() > 1);
        let ldx = if copy { steps * GROUP + 64 } else { k };
        with_scratch(if copy { rows.len() * ldx } else { 0 }, |scratch| {
            let x = if copy {
                for (i, row) in rows.clone().enumerate() {
                    // SAFETY: the scratch has `ldx` bytes for each row, more than k.
                    unsafe {
                        let dst = scratch.add(i * ldx);
                        dst.copy_from_nonoverlapping(self.x[row * k..].as_ptr().cast(), k);
                        dst.add(k).write_bytes(0, steps * GROUP - k);
                    }
                }
                scratch.cast_const().cast()
            } else {
                self.x[rows.start * k..].as_ptr()
            };
            for panel in panels {
                let w = self.w.panel(panel);
                let col = panel * NR;
                for i in 0..rows.len().div_ceil(self.kernel.mr) {
                    let tile = part(rows.len(), self.kernel.mr, i);
                    // SAFETY: the rows of x, their sums and scales, the panel and the tile of y exist.
                    unsafe {
                        self.kernel.run(&Tile {
                            steps,
                            x: x.add(tile.start * ldx),
                            ldx,
                            w,
                            y: self.y.add((rows.start + tile.start) * self.ldy + col),
                            ldy: self.ldy,
                            rows: tile.len(),
                            cols: NR.min(n - col),
                            sums: sums[tile.start..].as_ptr(),
                            scales: scales[tile.start..].as_ptr(),
                        });
                    }
                }
            }
        });
    }
}
