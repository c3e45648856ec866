//! AVX2 + FMA tile of up to 6 x 16, and the 8 x 8 transpose that packing uses.

use super::kernel::Tile;
use std::arch::x86_64::*;

pub(super) const MR: usize = 6;
pub(super) const NR: usize = 16;
const LANES: usize = 8;

type Run = unsafe fn(&Tile);

macro_rules! table {
    ($by_rows:literal) => {
        table!(@ $by_rows; 1 2 3 4 5 6)
    };
    (@ $by_rows:literal; $($r:literal)*) => {
        [$([tile::<$r, 1, $by_rows> as Run, tile::<$r, 2, $by_rows> as Run]),*]
    };
}
/// Kernels by `[rows - 1][vectors - 1]` for A by columns and by rows.
static BY_COLUMNS: [[Run; 2]; MR] = table!(false);
static BY_ROWS: [[Run; 2]; MR] = table!(true);

/// # Safety
/// See [`super::kernel::Kernel::run`]; the CPU has AVX2 and FMA.
pub(super) unsafe fn run(t: &Tile) {
    let table = if t.by_rows { &BY_ROWS } else { &BY_COLUMNS };
    let kernel = table[t.rows - 1][t.cols.div_ceil(LANES) - 1];
    // SAFETY: the entry is the kernel for this row and vector count; the rest is the caller's promise.
    unsafe { kernel(t) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const V: usize, const BY_ROWS: bool>(t: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); V]; R];
    let lda = t.lda;
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: the tile's pointers cover k steps of R rows of A and a full width of B.
    unsafe {
        for _ in 0..t.k {
            let mut bv = [_mm256_setzero_ps(); V];
            for (v, bv) in bv.iter_mut().enumerate() {
                *bv = _mm256_loadu_ps(b.add(v * LANES));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(if BY_ROWS { i * lda } else { i }));
                for v in 0..V {
                    acc[v] = _mm256_fmadd_ps(x, bv[v], acc[v]);
                }
            }
            a = a.add(if BY_ROWS { 1 } else { lda });
            b = b.add(t.ldb);
        }
    }
    let alpha = _mm256_set1_ps(t.alpha);
    let beta = _mm256_set1_ps(t.beta);
    let tail = t.cols - (V - 1) * LANES;
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let last = _mm256_cmpgt_epi32(_mm256_set1_epi32(tail as i32), lane);
    for (i, acc) in acc.iter().enumerate() {
        for (v, &acc) in acc.iter().enumerate() {
            let partial = v + 1 == V && tail < LANES;
            // SAFETY: C covers R rows of `cols`, and the mask ends at `cols`.
            unsafe {
                let c = t.c.add(i * t.ldc + v * LANES);
                let mut value = _mm256_mul_ps(alpha, acc);
                if t.beta != 0.0 {
                    let old = if partial { _mm256_maskload_ps(c, last) } else { _mm256_loadu_ps(c) };
                    value = _mm256_fmadd_ps(beta, old, value);
                }
                if partial {
                    _mm256_maskstore_ps(c, last, value);
                } else {
                    _mm256_storeu_ps(c, value);
                }
            }
        }
    }
}

/// Writes `dst[p·dst_stride + i] = src[i·src_stride + p]` for `i` in 0..8 and `p < len`; rows from `rows` on are 0.
///
/// # Safety
/// `src` covers `rows` (1..=8) runs of `len`, `dst` covers `len` runs of 8; the CPU has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose(
    src: *const f32,
    src_stride: usize,
    rows: usize,
    len: usize,
    dst: *mut f32,
    dst_stride: usize,
) {
    for p in (0..len).step_by(LANES) {
        let columns = (len - p).min(LANES);
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32), lane);
        let mut r = [_mm256_setzero_ps(); LANES];
        for (i, r) in r.iter_mut().enumerate() {
            if i < rows {
                // SAFETY: row i and, by the mask, columns below `len` are inside the source.
                *r = unsafe { _mm256_maskload_ps(src.add(i * src_stride + p), mask) };
            }
        }
        let r = transpose8(r);
        for (q, &r) in r.iter().enumerate() {
            if q < columns {
                // SAFETY: p + q < len.
                unsafe { _mm256_storeu_ps(dst.add((p + q) * dst_stride), r) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    let mut quads = r;
    for g in [0, 4] {
        let d = |v: __m256| _mm256_castps_pd(v);
        let low01 = d(_mm256_unpacklo_ps(r[g], r[g + 1]));
        let high01 = d(_mm256_unpackhi_ps(r[g], r[g + 1]));
        let low23 = d(_mm256_unpacklo_ps(r[g + 2], r[g + 3]));
        let high23 = d(_mm256_unpackhi_ps(r[g + 2], r[g + 3]));
        quads[g] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
        quads[g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
        quads[g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
        quads[g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
    }
    let mut out = quads;
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
    }
    out
}
