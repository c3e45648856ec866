//! Register-tile kernels: the same interface for every SIMD level.

use crate::cpu::simd::{self, Level};

/// One register tile: `C = alpha·A·B + beta·C` over `k` steps.
///
/// `A` is read either by rows (element (i, p) at `i·lda + p`) or by columns (`p·lda + i`); `B` always as rows of at least the kernel's full width (`p·ldb + j`), padded if `cols` is smaller.
pub(super) struct Tile {
    pub k: usize,
    pub a: *const f32,
    pub by_rows: bool,
    pub lda: usize,
    pub b: *const f32,
    pub ldb: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub rows: usize,
    pub cols: usize,
    pub alpha: f32,
    /// 0 means that C is not read.
    pub beta: f32,
}

/// The kernel of a level and the largest tile it takes.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub level: Level,
    pub mr: usize,
    pub nr: usize,
    run: unsafe fn(&Tile),
}

impl Kernel {
    /// Kernel for `level`, lowered to what the machine has.
    pub fn at(level: Level) -> Self {
        let level = level.min(simd::detected());
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Self { level, mr: super::avx512::MR, nr: super::avx512::NR, run: super::avx512::run }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self { level, mr: super::avx2::MR, nr: super::avx2::NR, run: super::avx2::run },
            _ => Self { level: Level::Portable, mr: PORTABLE_MR, nr: PORTABLE_NR, run: portable },
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// `1 <= rows <= mr`, `1 <= cols <= nr`, and the tile's pointers cover what its fields say.
    #[inline(always)]
    pub unsafe fn run(&self, tile: &Tile) {
        debug_assert!((1..=self.mr).contains(&tile.rows) && (1..=self.nr).contains(&tile.cols));
        // SAFETY: `at` picked a kernel this machine can run; the rest is the caller's promise.
        unsafe { (self.run)(tile) }
    }
}

const PORTABLE_MR: usize = 4;
const PORTABLE_NR: usize = 8;

/// # Safety
/// See [`Kernel::run`].
unsafe fn portable(t: &Tile) {
    // SAFETY: the caller's promise, with the row count as a constant.
    unsafe {
        match t.rows {
            4 => portable_rows::<4>(t),
            3 => portable_rows::<3>(t),
            2 => portable_rows::<2>(t),
            _ => portable_rows::<1>(t),
        }
    }
}

/// # Safety
/// See [`Kernel::run`]; `t.rows == R`.
#[inline(always)]
unsafe fn portable_rows<const R: usize>(t: &Tile) {
    let mut acc = [[0f32; PORTABLE_NR]; R];
    let (row, step) = if t.by_rows { (t.lda, 1) } else { (1, t.lda) };
    // SAFETY: the tile's pointers cover k steps of R rows and a full width of B, and rows x cols of C.
    unsafe {
        for p in 0..t.k {
            let b = &*t.b.add(p * t.ldb).cast::<[f32; PORTABLE_NR]>();
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = *t.a.add(i * row + p * step);
                for (acc, &b) in acc.iter_mut().zip(b) {
                    *acc = madd(a, b, *acc);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (j, &acc) in acc.iter().enumerate().take(t.cols) {
                let c = t.c.add(i * t.ldc + j);
                let v = t.alpha * acc;
                *c = if t.beta == 0.0 { v } else { madd(t.beta, *c, v) };
            }
        }
    }
}

/// Fused where the baseline has an instruction for it; elsewhere `mul_add` would be a library call.
#[inline(always)]
fn madd(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}
