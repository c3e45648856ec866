//! Register tiles of the integer product: one interface for every SIMD level.

use super::packed::{GROUP, NR, STEP};
use crate::cpu::simd::{self, Level};

/// `y[i, j] = f32(Σ (w + 1)·x - sums[i]) · scales[i]` over `steps` groups of 4 inputs.
pub(super) struct Tile {
    pub steps: usize,
    /// Activations, rows `ldx` bytes apart, `4·steps` bytes each.
    pub x: *const i8,
    pub ldx: usize,
    /// One panel of weights.
    pub w: *const u8,
    pub y: *mut f32,
    pub ldy: usize,
    pub rows: usize,
    pub cols: usize,
    /// Sum of the activations of each row.
    pub sums: *const i32,
    /// `γ / s` of each row.
    pub scales: *const f32,
}

#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Rows of a tile at most.
    pub mr: usize,
    run: unsafe fn(&Tile),
    sum: unsafe fn(&[i8]) -> i32,
}

impl Kernel {
    /// Kernel for `level`, lowered to what the machine has. AVX-512 without VNNI gets the AVX2 kernel.
    pub fn at(level: Level) -> Self {
        match level.min(simd::detected()) {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if simd::has_vnni() => {
                Self { mr: super::x86::VNNI_MR, run: super::x86::vnni, sum: super::x86::vnni_sum }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx2 => {
                Self { mr: super::x86::AVX2_MR, run: super::x86::avx2, sum: super::x86::avx2_sum }
            }
            _ => Self { mr: 1, run: portable, sum: portable_sum },
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// `1 <= rows <= mr`, `1 <= cols <= 32`, and the tile's pointers cover what its fields say.
    pub unsafe fn run(&self, tile: &Tile) {
        // SAFETY: `at` picked a kernel this machine can run; the rest is the caller's promise.
        unsafe { (self.run)(tile) }
    }

    /// Sum of a row of activations.
    pub fn sum(&self, row: &[i8]) -> i32 {
        // SAFETY: `at` picked a kernel this machine can run.
        unsafe { (self.sum)(row) }
    }
}

/// # Safety
/// See [`Kernel::run`]; one row.
unsafe fn portable(t: &Tile) {
    let mut acc = [0i32; NR];
    // SAFETY: the tile's pointers cover the steps of one row of x and of a panel, one sum, one scale and `cols` of y.
    unsafe {
        for p in 0..t.steps {
            let x = t.x.add(p * GROUP).cast::<[i8; GROUP]>().read();
            let w = &*t.w.add(p * STEP).cast::<[[u8; GROUP]; NR]>();
            for (acc, w) in acc.iter_mut().zip(w) {
                for (&w, &x) in w.iter().zip(&x) {
                    *acc += w as i32 * x as i32;
                }
            }
        }
        for (j, &acc) in acc.iter().enumerate().take(t.cols) {
            *t.y.add(j) = (acc - *t.sums) as f32 * *t.scales;
        }
    }
}

/// # Safety
/// None is needed; the type is that of the SIMD forms.
unsafe fn portable_sum(row: &[i8]) -> i32 {
    row.iter().map(|&x| x as i32).sum()
}
