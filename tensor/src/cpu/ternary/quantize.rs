//! Quantization of activations (absmax, a scale per token) and of weights (absmean, a scale per matrix).

use crate::cpu::gemm::scratch::with_scratch;
use crate::cpu::simd;
use rayon::prelude::*;

/// Scales never divide by less than this.
const EPSILON: f32 = 1e-5;
/// Weights summed by one f64 accumulator. Part of γ's definition: it fixes the order of additions.
const BLOCK: usize = 4096;
/// Elements of a parallel chunk, about.
const CHUNK: usize = 1 << 15;

/// `1.5·2^23`: adding it rounds |v| < 2^22 to an integer, half to even, found in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Quantizes rows of `x [m, k]`: `s = 127 / max(absmax, 1e-5)`, `q = clamp(round(x·s), -128, 127)`, rounding half to
/// even. `q` is `[m, k]`, `s` is `[m]`.
///
/// A row with a NaN gets the scale NaN, one with an infinity the scale 0, so that what is computed with it is not
/// finite either; its codes are arbitrary.
///
/// # Panics
/// If the lengths do not fit.
pub fn quantize_activations(x: &[f32], q: &mut [i8], s: &mut [f32]) {
    assert_eq!(x.len(), q.len(), "one code an activation");
    if x.is_empty() {
        s.fill(127.0 / EPSILON);
        return;
    }
    assert!(
        !s.is_empty() && x.len().is_multiple_of(s.len()),
        "{} activations are not {} rows",
        x.len(),
        s.len()
    );
    let k = x.len() / s.len();
    let rows = (CHUNK / k).max(1);
    let chunk = |((x, q), s): ((&[f32], &mut [i8]), &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                for ((x, q), s) in x.chunks_exact(k).zip(q.chunks_exact_mut(k)).zip(s) {
                    *s = quantize_row(x, q);
                }
            },
        );
    };
    if x.len() <= 2 * CHUNK {
        chunk(((x, q), s));
    } else {
        x.par_chunks(rows * k).zip(q.par_chunks_mut(rows * k)).zip(s.par_chunks_mut(rows)).for_each(chunk);
    }
}

/// One row of [`quantize_activations`], to be inlined into a [`simd::dispatch`] closure. Returns the scale.
#[inline(always)]
pub fn quantize_row(x: &[f32], q: &mut [i8]) -> f32 {
    // The bits of |x| order like integers, with NaN above infinity: so a NaN survives the maximum.
    let bits = x.iter().fold(0i32, |m, v| m.max((v.to_bits() & 0x7fff_ffff) as i32));
    let absmax = f32::from_bits(bits as u32);
    let s = 127.0 / if absmax < EPSILON { EPSILON } else { absmax };
    for (q, &x) in q.iter_mut().zip(x) {
        // Clamping before rounding gives the same integers.
        let v = (x * s).clamp(-128.0, 127.0);
        *q = (v + ROUND).to_bits() as i8;
    }
    s
}

/// `γ = max(mean|W|, 1e-5)`: |W| summed in f64 over blocks of 4,096 in index order, then the blocks in order, then the
/// mean rounded to f32. NaN if a weight is NaN.
pub fn absmean(w: &[f32]) -> f32 {
    const GROUP: usize = 8;
    let blocks = w.len().div_ceil(BLOCK);
    let total = with_scratch(blocks * 8, |scratch| {
        // SAFETY: the scratch has 8 bytes a block and is aligned; zeroed, it holds f64s.
        let sums = unsafe {
            scratch.write_bytes(0, blocks * 8);
            std::slice::from_raw_parts_mut(scratch.cast::<f64>(), blocks)
        };
        sums.par_chunks_mut(GROUP).zip(w.par_chunks(GROUP * BLOCK)).for_each(|(sums, w)| {
            simd::dispatch(
                #[inline(always)]
                || sum_blocks(w, sums),
            );
        });
        sums.iter().fold(0.0, |total, sum| total + sum)
    });
    let mean = (total / w.len().max(1) as f64) as f32;
    if mean < EPSILON { EPSILON } else { mean }
}

/// Sum of |w| of each block of up to 8.
#[inline(always)]
fn sum_blocks(w: &[f32], sums: &mut [f64]) {
    // One block's additions depend on each other; eight blocks side by side keep the adders busy.
    if let (Ok(sums), true) = (<&mut [f64; 8]>::try_from(&mut *sums), w.len() == 8 * BLOCK) {
        let mut acc = [0f64; 8];
        for i in 0..BLOCK {
            for (b, acc) in acc.iter_mut().enumerate() {
                *acc += w[b * BLOCK + i].abs() as f64;
            }
        }
        *sums = acc;
    } else {
        for (sum, w) in sums.iter_mut().zip(w.chunks(BLOCK)) {
            *sum = w.iter().fold(0.0, |sum, w| sum + w.abs() as f64);
        }
    }
}

/// What a weight's quantization found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightStats {
    /// Scale γ of the matrix.
    pub gamma: f32,
    /// Codes that are -1.
    pub minus: usize,
    /// Codes that are 0.
    pub zero: usize,
    /// Codes that are +1.
    pub plus: usize,
    /// Codes that differ from what the buffer held before.
    pub flips: usize,
}

/// Quantizes a weight in place into `codes`: `γ` as [`absmean`], `code = clamp(round(w/γ), -1, 1)`, rounding half to
/// even. A NaN weight gets code 0 and makes γ NaN.
///
/// # Panics
/// If the lengths differ.
pub fn quantize_weights(w: &[f32], codes: &mut [i8]) -> WeightStats {
    assert_eq!(w.len(), codes.len(), "one code a weight");
    let gamma = absmean(w);
    // round(w/γ) is at least 1 exactly if w > γ/2: halving is exact, and the first float above γ/2 divided by γ is
    // at least 0.5·(1 + 2^-24) and more, which does not round down to 0.5.
    let half = gamma * 0.5;
    let counts = codes
        .par_chunks_mut(CHUNK)
        .zip(w.par_chunks(CHUNK))
        .map(|(codes, w)| {
            simd::dispatch(
                #[inline(always)]
                || quantize_chunk(w, codes, half),
            )
        })
        // Integer sums: their order does not matter.
        .reduce(|| [0; 3], |a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]]);
    let [minus, plus, flips] = counts;
    WeightStats { gamma, minus, zero: w.len() - minus - plus, plus, flips }
}

/// Returns the numbers of -1, of +1 and of changed codes.
#[inline(always)]
pub(super) fn quantize_chunk(w: &[f32], codes: &mut [i8], half: f32) -> [usize; 3] {
    let (mut minus, mut plus, mut flips) = (0u32, 0u32, 0u32);
    for (code, &w) in codes.iter_mut().zip(w) {
        let (p, m) = (w > half, w < -half);
        let new = p as i8 - m as i8;
        plus += p as u32;
        minus += m as u32;
        flips += (new != *code) as u32;
        *code = new;
    }
    [minus as usize, plus as usize, flips as usize]
}
