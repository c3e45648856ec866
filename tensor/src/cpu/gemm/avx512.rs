//! AVX-512 tile of up to 14 x 32, and the 16 x 16 transpose that packing uses.

use super::kernel::Tile;
use std::arch::x86_64::*;

pub(super) const MR: usize = 14;
pub(super) const NR: usize = 32;
const LANES: usize = 16;

type Run = unsafe fn(&Tile);

macro_rules! table {
    ($by_rows:literal) => {
        table!(@ $by_rows; 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $by_rows:literal; $($r:literal)*) => {
        [$([tile::<$r, 1, $by_rows> as Run, tile::<$r, 2, $by_rows> as Run]),*]
    };
}
/// Kernels by `[rows - 1][vectors - 1]` for A by columns and by rows.
static BY_COLUMNS: [[Run; 2]; MR] = table!(false);
static BY_ROWS: [[Run; 2]; MR] = table!(true);

/// # Safety
/// See [`super::kernel::Kernel::run`]; the CPU has AVX-512.
pub(super) unsafe fn run(t: &Tile) {
    let table = if t.by_rows { &BY_ROWS } else { &BY_COLUMNS };
    let kernel = table[t.rows - 1][t.cols.div_ceil(LANES) - 1];
    // SAFETY: the entry is the kernel for this row and vector count; the rest is the caller's promise.
    unsafe { kernel(t) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<const R: usize, const V: usize, const BY_ROWS: bool>(t: &Tile) {
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    let lda = t.lda;
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: the tile's pointers cover k steps of R rows of A and a full width of B.
    unsafe {
        for i in 0..R {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_ET0>(t.c.wrapping_add(i * t.ldc + v * LANES).cast());
            }
        }
        for _ in 0..t.k {
            let mut bv = [_mm512_setzero_ps(); V];
            for (v, bv) in bv.iter_mut().enumerate() {
                *bv = _mm512_loadu_ps(b.add(v * LANES));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(if BY_ROWS { i * lda } else { i }));
                for v in 0..V {
                    acc[v] = _mm512_fmadd_ps(x, bv[v], acc[v]);
                }
            }
            a = a.add(if BY_ROWS { 1 } else { lda });
            b = b.add(t.ldb);
        }
    }
    let alpha = _mm512_set1_ps(t.alpha);
    let beta = _mm512_set1_ps(t.beta);
    let last = tail_mask(t.cols - (V - 1) * LANES);
    for (i, acc) in acc.iter().enumerate() {
        for (v, &acc) in acc.iter().enumerate() {
            let mask = if v + 1 == V { last } else { !0 };
            // SAFETY: C covers R rows of `cols`, and the mask ends at `cols`.
            unsafe {
                let c = t.c.add(i * t.ldc + v * LANES);
                let mut value = _mm512_mul_ps(alpha, acc);
                if t.beta != 0.0 {
                    value = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(mask, c), value);
                }
                if mask == !0 {
                    _mm512_storeu_ps(c, value);
                } else {
                    _mm512_mask_storeu_ps(c, mask, value);
                }
            }
        }
    }
}

/// Lowest `n` of 16 lanes.
fn tail_mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Writes `dst[p·dst_stride + i] = src[i·src_stride + p]` for `i` in 0..16 and `p < len`; rows from `rows` on are 0.
///
/// # Safety
/// `src` covers `rows` (1..=16) runs of `len`, `dst` covers `len` runs of 16; the CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
        let mask = tail_mask(columns);
        let mut r = [_mm512_setzero_ps(); LANES];
        for (i, r) in r.iter_mut().enumerate() {
            if i < rows {
                // SAFETY: row i and, by the mask, columns below `len` are inside the source.
                *r = unsafe { _mm512_maskz_loadu_ps(mask, src.add(i * src_stride + p)) };
            }
        }
        let r = transpose16(r);
        for (q, &r) in r.iter().enumerate() {
            if q < columns {
                // SAFETY: p + q < len.
                unsafe { _mm512_storeu_ps(dst.add((p + q) * dst_stride), r) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose16(r: [__m512; 16]) -> [__m512; 16] {
    let mut pairs = r;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    // Each 128-bit lane l of quads[4g + c] holds column 4l + c of rows 4g..4g + 4.
    let mut quads = pairs;
    for g in (0..16).step_by(4) {
        let d = |i: usize| _mm512_castps_pd(pairs[g + i]);
        quads[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(0), d(2)));
        quads[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(0), d(2)));
        quads[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(1), d(3)));
        quads[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(1), d(3)));
    }
    let mut out = quads;
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(quads[c], quads[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xdd>(quads[c], quads[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(quads[8 + c], quads[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(quads[8 + c], quads[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        out[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    out
}
