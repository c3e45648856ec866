//! Integer tiles for AVX-512 VNNI and AVX2.

use super::kernel::Tile;
use super::packed::{GROUP, NR, STEP};
use std::arch::x86_64::*;

pub(super) const VNNI_MR: usize = 14;
pub(super) const AVX2_MR: usize = 2;
const LANES: usize = 16;

type Run = unsafe fn(&Tile);

macro_rules! table {
    ($($r:literal)*) => { [$([vnni_tile::<$r, 1> as Run, vnni_tile::<$r, 2> as Run]),*] };
}

/// Kernels by `[rows - 1][vectors - 1]`.
static VNNI: [[Run; 2]; VNNI_MR] = table!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// # Safety
/// See [`super::kernel::Kernel::run`]; the CPU has AVX-512 with VNNI.
pub(super) unsafe fn vnni(t: &Tile) {
    let kernel = VNNI[t.rows - 1][t.cols.div_ceil(LANES) - 1];
    // SAFETY: the entry is the kernel for this row and vector count; the rest is the caller's promise.
    unsafe { kernel(t) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn vnni_tile<const R: usize, const V: usize>(t: &Tile) {
    let mut acc = [[_mm512_setzero_si512(); V]; R];
    let (mut x, mut w) = (t.x, t.w);
    let mut left = t.steps;
    // SAFETY: the tile's pointers cover `steps` groups of R rows and of a panel.
    unsafe {
        for i in 0..R {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_ET0>(t.y.wrapping_add(i * t.ldy + v * LANES).cast());
            }
        }
        // Few rows have too few chains of additions to hide an instruction's latency: four steps at a time get
        // sums of their own. Integer sums may be reordered.
        if R <= 2 {
            let mut more = [[[_mm512_setzero_si512(); V]; R]; 4];
            while left >= 4 {
                for (u, more) in more.iter_mut().enumerate() {
                    step::<R, V>(more, x.add(u * GROUP), t.ldx, w.add(u * STEP));
                }
                (x, w, left) = (x.add(4 * GROUP), w.add(4 * STEP), left - 4);
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_add_epi32(more[0][i][v], more[1][i][v]);
                    let b = _mm512_add_epi32(more[2][i][v], more[3][i][v]);
                    *acc = _mm512_add_epi32(a, b);
                }
            }
        }
        for _ in 0..left {
            step::<R, V>(&mut acc, x, t.ldx, w);
            (x, w) = (x.add(GROUP), w.add(STEP));
        }
    }
    let tail = t.cols - (V - 1) * LANES;
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: there is a sum and a scale for each row.
        let (sum, scale) = unsafe { (_mm512_set1_epi32(*t.sums.add(i)), _mm512_set1_ps(*t.scales.add(i))) };
        for (v, &acc) in acc.iter().enumerate() {
            let value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(acc, sum)), scale);
            // SAFETY: y covers R rows of `cols`, and the mask ends at `cols`.
            unsafe {
                let y = t.y.add(i * t.ldy + v * LANES);
                if v + 1 == V && tail < LANES {
                    _mm512_mask_storeu_ps(y, ((1u32 << tail) - 1) as __mmask16, value);
                } else {
                    _mm512_storeu_ps(y, value);
                }
            }
        }
    }
}

/// One group of 4 inputs.
///
/// # Safety
/// `x` is readable for 4 bytes in each of R rows, `w` for a panel's step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn step<const R: usize, const V: usize>(
    acc: &mut [[__m512i; V]; R],
    x: *const i8,
    ldx: usize,
    w: *const u8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut wv = [_mm512_setzero_si512(); V];
        for (v, wv) in wv.iter_mut().enumerate() {
            *wv = _mm512_loadu_si512(w.add(v * 64).cast());
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let x = _mm512_set1_epi32(x.add(i * ldx).cast::<i32>().read_unaligned());
            for v in 0..V {
                acc[v] = _mm512_dpbusd_epi32(acc[v], wv[v], x);
            }
        }
    }
}

/// # Safety
/// The CPU has AVX-512 with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn vnni_sum(row: &[i8]) -> i32 {
    let ones = _mm512_set1_epi8(1);
    let mut acc = _mm512_setzero_si512();
    let (chunks, rest) = row.as_chunks::<64>();
    for chunk in chunks {
        // SAFETY: the chunk has 64 bytes.
        let x = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
        acc = _mm512_dpbusd_epi32(acc, ones, x);
    }
    _mm512_reduce_add_epi32(acc) + rest.iter().map(|&x| x as i32).sum::<i32>()
}

/// Steps that may be added in i16: a pair is at least -512, and 64 of those are i16's minimum.
const I16_STEPS: usize = 64;

/// # Safety
/// See [`super::kernel::Kernel::run`]; the CPU has AVX2.
pub(super) unsafe fn avx2(t: &Tile) {
    // SAFETY: the caller's promise, with the row count as a constant.
    unsafe { if t.rows == 2 { avx2_tile::<2>(t) } else { avx2_tile::<1>(t) } }
}

#[target_feature(enable = "avx2")]
unsafe fn avx2_tile<const R: usize>(t: &Tile) {
    const V: usize = NR / 8;
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); V]; R];
    for from in (0..t.steps).step_by(I16_STEPS) {
        let mut pairs = [[_mm256_setzero_si256(); V]; R];
        for p in from..t.steps.min(from + I16_STEPS) {
            // SAFETY: the tile's pointers cover `steps` groups of R rows and of a panel.
            unsafe {
                let mut x = [_mm256_setzero_si256(); R];
                for (i, x) in x.iter_mut().enumerate() {
                    *x = _mm256_set1_epi32(t.x.add(i * t.ldx + p * GROUP).cast::<i32>().read_unaligned());
                }
                for v in 0..V {
                    let w = _mm256_loadu_si256(t.w.add(p * STEP + v * 32).cast());
                    for (pairs, &x) in pairs.iter_mut().zip(&x) {
                        pairs[v] = _mm256_add_epi16(pairs[v], _mm256_maddubs_epi16(w, x));
                    }
                }
            }
        }
        for (acc, pairs) in acc.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(*pairs, ones));
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let mut row = [0f32; NR];
        // SAFETY: there is a sum and a scale for each row, y covers R rows of `cols`, and `row` has 8 lanes at 8·v.
        unsafe {
            let (sum, scale) = (_mm256_set1_epi32(*t.sums.add(i)), _mm256_set1_ps(*t.scales.add(i)));
            for (v, &acc) in acc.iter().enumerate() {
                let value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(acc, sum)), scale);
                _mm256_storeu_ps(row.as_mut_ptr().add(v * 8), value);
            }
            let y = t.y.add(i * t.ldy);
            if t.cols == NR {
                y.cast::<[f32; NR]>().write_unaligned(row);
            } else {
                y.copy_from_nonoverlapping(row.as_ptr(), t.cols);
            }
        }
    }
}

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2_sum(row: &[i8]) -> i32 {
    let (chunks, rest) = row.as_chunks::<32>();
    let mut acc = _mm256_setzero_si256();
    for chunk in chunks {
        // SAFETY: the chunk has 32 bytes.
        let x = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), x);
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let mut lanes = [0i32; 8];
    // SAFETY: eight lanes of 4 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), acc) };
    lanes.iter().sum::<i32>() + rest.iter().map(|&x| x as i32).sum::<i32>()
}
