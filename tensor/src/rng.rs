//! Random numbers as a function of where they are used, never of a state.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key
//! and a counter to 128 bits. Everything here is integer arithmetic or single IEEE operations (+, -, ×, ÷, √), none
//! fused, so every machine and device gets the same bits, in any order and number of threads.

use crate::cpu::{math, parallel, simd};
use crate::{DType, Device, Error, Result, Tensor, cuda};

/// The place that draws random numbers: equal streams give equal numbers, different ones independent numbers.
///
/// ```
/// use tensor::{DType, Device, Stream, Tensor};
/// let dropout = Stream { seed: 1, step: 20, micro_batch: 3, site: 7 };
/// let x = Tensor::uniform(0.0, 1.0, &[4], DType::F32, &Device::Cpu, dropout)?;
/// assert_eq!(x.to_vec::<f32>()?[2], dropout.uniform(2));
/// # Ok::<(), tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Stream {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step, or any other point in time.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro_batch: u32,
    /// Which of the program's uses of randomness this is.
    pub site: u32,
}

impl Stream {
    /// The stream of `seed` with everything else 0.
    pub fn new(seed: u64) -> Self {
        Stream { seed, ..Default::default() }
    }

    /// 128 random bits: Philox4x32-10 of the counter (index, a half of the stream's hash) under the other half as key.
    /// The hash is Philox4x32-10 of (step, micro-batch, site) under the seed as key; low words come first throughout.
    pub fn bits(&self, index: u64) -> [u32; 4] {
        self.keyed().block([index]).map(|[word]| word)
    }

    /// Number `index` of the stream, uniform in [0, 1): a multiple of 2^-24, from the high bits of word `index % 4` of
    /// [`Stream::bits`]`(index / 4)`.
    pub fn uniform(&self, index: u64) -> f32 {
        uniform(self.word(index))
    }

    /// Uniform in [0, 1): a multiple of 2^-53, from half `index % 2` of [`Stream::bits`]`(index / 2)`.
    pub fn uniform_f64(&self, index: u64) -> f64 {
        let [a, b, c, d] = self.bits(index / 2);
        if index.is_multiple_of(2) { uniform_f64(a, b) } else { uniform_f64(c, d) }
    }

    /// Standard normal, from the word that [`Stream::uniform`] uses; see [`normal`].
    pub fn normal(&self, index: u64) -> f32 {
        normal(self.word(index))
    }

    /// Uniform in 0..n, by multiplication, with a bias below n·2^-64; 0 if n is 0. Uses the bits of
    /// [`Stream::uniform_f64`].
    pub fn below(&self, index: u64, n: u64) -> u64 {
        let [a, b, c, d] = self.bits(index / 2);
        let word = if index.is_multiple_of(2) { join(a, b) } else { join(c, d) };
        ((u128::from(word) * u128::from(n)) >> 64) as u64
    }

    /// The numbers 0..n in random order (Fisher–Yates).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }

    fn word(&self, index: u64) -> u32 {
        self.bits(index / 4)[(index % 4) as usize]
    }

    /// Key and upper half of the counter of every block.
    fn hash(&self) -> [[u32; 2]; 2] {
        let Keyed { key, high } = self.keyed();
        [key, high]
    }

    fn keyed(&self) -> Keyed {
        let counter = [self.step as u32, (self.step >> 32) as u32, self.micro_batch, self.site];
        let [a, b, c, d] = philox(counter.map(|word| [word]), split(self.seed)).map(|[word]| word);
        Keyed { key: [a, b], high: [c, d] }
    }
}

/// A stream's hash, ready to make bits.
#[derive(Clone, Copy)]
struct Keyed {
    key: [u32; 2],
    high: [u32; 2],
}

impl Keyed {
    #[inline(always)]
    fn block<const L: usize>(self, index: [u64; L]) -> [[u32; L]; 4] {
        let (low, high) = (index.map(|i| i as u32), index.map(|i| (i >> 32) as u32));
        philox([low, high, [self.high[0]; L], [self.high[1]; L]], self.key)
    }
}

fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Philox4x32-10 of `L` counters at once, word by word.
#[inline(always)]
fn philox<const L: usize>(mut counter: [[u32; L]; 4], mut key: [u32; 2]) -> [[u32; L]; 4] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for _ in 0..10 {
        #[allow(clippy::needless_range_loop, reason = "four arrays in step")]
        for lane in 0..L {
            let a = MULTIPLIERS[0] * u64::from(counter[0][lane]);
            let b = MULTIPLIERS[1] * u64::from(counter[2][lane]);
            counter[0][lane] = (b >> 32) as u32 ^ counter[1][lane] ^ key[0];
            counter[1][lane] = b as u32;
            counter[2][lane] = (a >> 32) as u32 ^ counter[3][lane] ^ key[1];
            counter[3][lane] = a as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[inline(always)]
fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn uniform_f64(low: u32, high: u32) -> f64 {
    (join(low, high) >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// A standard normal number from 32 random bits, out to ±6.3.
///
/// The inverse of the normal distribution at p = (b + ½)·2^-32, with b the low 31 bits; the top bit is the sign. With
/// w = -ln(4p(1-p)), z = (1-2p)·P(w) as in Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011); the
/// two polynomials are minimax fits of our own, and the result is within 2e-6.
#[inline(always)]
pub fn normal(word: u32) -> f32 {
    const CENTRE: [f32; 10] = [
        0.0,
        4.035_435e-8,
        4.861_015e-7,
        -4.990_563e-6,
        -6.217_97e-6,
        3.091_502e-4,
        -1.773_010_2e-3,
        -5.908_171e-3,
        0.348_802_66,
        2.123_313_7,
    ];
    const TAIL: [f32; 10] = [
        6.245_613e-5,
        -2.507_304_5e-5,
        -4.561_136_6e-4,
        1.026_336_1e-3,
        -1.370_299e-3,
        2.048_084_5e-3,
        -3.654_929e-3,
        5.627_448e-3,
        1.423_614_5,
        4.574_674_6,
    ];
    let p = ((word & 0x7fff_ffff) as i32 as f32 + 0.5) * (1.0 / 4_294_967_296.0);
    let w = -math::ln_normal(4.0 * p * (1.0 - p), 0.0);
    let in_tail = w >= 5.0;
    let t = if in_tail { w.sqrt() - 3.4 } else { w - 2.5 };
    let mut sum = 0.0;
    for (centre, tail) in CENTRE.iter().zip(&TAIL) {
        sum = sum * t + if in_tail { *tail } else { *centre };
    }
    let z = (1.0 - 2.0 * p) * sum;
    f32::from_bits(z.to_bits() ^ (word & 1 << 31))
}

/// Writes `f(word)` of the words of the stream, in order.
fn fill(stream: Stream, out: &mut [f32], f: impl Fn(u32) -> f32 + Copy + Send + Sync) {
    const LANES: usize = 16;
    let keyed = stream.keyed();
    parallel::chunks(out, parallel::CHUNK, |start, out| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (group, out) in out.chunks_mut(4 * LANES).enumerate() {
                    let first = (start / 4 + group * LANES) as u64;
                    let mut index = [first; LANES];
                    for (lane, index) in index.iter_mut().enumerate() {
                        *index += lane as u64;
                    }
                    let blocks = keyed.block(index);
                    let mut words = [0; 4 * LANES];
                    for (lane, words) in words.chunks_exact_mut(4).enumerate() {
                        for (word, block) in words.iter_mut().zip(&blocks) {
                            *word = block[lane];
                        }
                    }
                    for (out, &word) in out.iter_mut().zip(&words) {
                        *out = f(word);
                    }
                }
            },
        );
    });
}

impl Tensor {
    /// Uniform numbers in [low, high): `low + (high - low)·u`, with u from [`Stream::uniform`] (for f64,
    /// [`Stream::uniform_f64`]) of each row-major position. Rounding may give `high` itself where the interval is
    /// narrow against its ends. Any float type; bf16 and f16 are rounded from f32.
    pub fn uniform(
        low: f64,
        high: f64,
        dims: &[usize],
        dtype: DType,
        device: &Device,
        stream: Stream,
    ) -> Result<Self> {
        let mut out = Self::empty(dims, if dtype == DType::F64 { dtype } else { DType::F32 }, device)?;
        match dtype {
            DType::F64 => parallel::chunks(out.as_mut_slice::<f64>()?, parallel::CHUNK, |start, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = low + (high - low) * stream.uniform_f64((start + i) as u64);
                }
            }),
            DType::F32 | DType::BF16 | DType::F16 => {
                let (low, span) = (low as f32, (high - low) as f32);
                if let Device::Cuda(gpu) = device {
                    cuda::random::fill(*gpu, "uniform", stream.hash(), [low, span], &mut out)?;
                    return out.to_dtype(dtype);
                }
                fill(
                    stream,
                    out.as_mut_slice()?,
                    #[inline(always)]
                    move |word| low + span * uniform(word),
                );
            }
            other => return Err(Error::dtype("uniform", "a float type", other)),
        }
        out.to_dtype(dtype)
    }

    /// Normal numbers: `mean + std·z`, with z from [`Stream::normal`] of each row-major position. Any float type; bf16
    /// and f16 are rounded from f32, and f64 scales the f32 draw in f64.
    pub fn normal(
        mean: f64,
        std: f64,
        dims: &[usize],
        dtype: DType,
        device: &Device,
        stream: Stream,
    ) -> Result<Self> {
        let mut out = Self::empty(dims, DType::F32, device)?;
        match dtype {
            DType::F64 => {
                fill(stream, out.as_mut_slice()?, normal);
                let mut out = out.to_dtype(dtype)?;
                let scale = |part: &mut [f64]| part.iter_mut().for_each(|x| *x = mean + std * *x);
                parallel::chunks(out.as_mut_slice()?, parallel::CHUNK, |_, part| scale(part));
                return Ok(out);
            }
            DType::F32 | DType::BF16 | DType::F16 => {
                let (mean, std) = (mean as f32, std as f32);
                if let Device::Cuda(gpu) = device {
                    cuda::random::fill(*gpu, "normal", stream.hash(), [mean, std], &mut out)?;
                    return out.to_dtype(dtype);
                }
                fill(
                    stream,
                    out.as_mut_slice()?,
                    #[inline(always)]
                    move |word| mean + std * normal(word),
                );
            }
            other => return Err(Error::dtype("normal", "a float type", other)),
        }
        out.to_dtype(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
        philox(counter.map(|word| [word]), key).map(|[word]| word)
    }

    /// The vectors published with Random123 (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(words([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(words([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        let key = [0xa4093822, 0x299f31d0];
        assert_eq!(words(pi, key), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn the_hash_takes_every_field_and_every_bit_of_it() {
        let base = Stream { seed: 1, step: 2, micro_batch: 3, site: 4 };
        let mut seen = std::collections::HashSet::from([base.bits(0)]);
        for bit in 0..64 {
            assert!(seen.insert(Stream { seed: base.seed ^ 1 << bit, ..base }.bits(0)));
            assert!(seen.insert(Stream { step: base.step ^ 1 << bit, ..base }.bits(0)));
            assert!(seen.insert(base.bits(1 << bit)));
        }
        for bit in 0..32 {
            assert!(seen.insert(Stream { micro_batch: base.micro_batch ^ 1 << bit, ..base }.bits(0)));
            assert!(seen.insert(Stream { site: base.site ^ 1 << bit, ..base }.bits(0)));
        }
    }

    /// Bits that must never change, on any device: checkpoints resume by them.
    #[test]
    fn draws_are_pinned() {
        let stream = Stream { seed: 42, step: 7, micro_batch: 1, site: 9 };
        assert_eq!(stream.bits(5), PINNED_BITS);
        let normals: Vec<u32> =
            [0, 1, 1000, 1 << 31, u32::MAX].iter().map(|&w| normal(w).to_bits()).collect();
        assert_eq!(normals, PINNED_NORMALS);
    }
    // Computed apart from this code, step by step in NumPy's uint64 and float32.
    const PINNED_BITS: [u32; 4] = [0xdbd7437d, 0x952c0b62, 0x5cbbe6cb, 0x9dc445d1];
    const PINNED_NORMALS: [u32; 5] = [0x40cad08d, 0x40c55362, 0x40a14677, 0xc0cad08d, 0x80000000];

    #[test]
    fn uniforms_cover_zero_to_below_one() {
        assert_eq!(uniform(0), 0.0);
        assert_eq!(uniform(u32::MAX), 1.0 - f32::EPSILON / 2.0);
        assert_eq!(uniform_f64(u32::MAX, u32::MAX), 1.0 - f64::EPSILON / 2.0);
        assert_eq!(uniform_f64(1 << 11, 0), f64::EPSILON / 2.0);
    }

    /// Φ(z) by the continued fraction for the tail and the series for the centre, in f64.
    fn phi(z: f64) -> f64 {
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if z.abs() < 2.0 {
            let (mut term, mut sum, mut n) = (z, z, 1.0);
            while term.abs() > 1e-18 {
                n += 2.0;
                term *= z * z / n;
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..200).rev().fold(z.abs(), |f, k| z.abs() + f64::from(k) / f);
        if z < 0.0 { density / fraction } else { 1.0 - density / fraction }
    }

    #[test]
    fn normals_invert_the_distribution_out_to_the_tails() {
        for exponent in 0..31 {
            for step in 0..64u32 {
                let low = (((1u64 << exponent) * u64::from(64 + step)) >> 6) as u32 - 1;
                let p = (f64::from(low) + 0.5) / 4_294_967_296.0;
                let z = -f64::from(normal(low));
                assert_eq!(normal(low | 1 << 31), -normal(low));
                // The error in z is the error in p over the density.
                let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let error = (phi(z) - p).abs() / density;
                assert!(error < 2e-6, "word {low}: z {z}, error {error:e}");
            }
        }
    }

    #[test]
    fn draws_have_the_moments_and_the_distribution() -> Result<()> {
        let n = 1 << 20;
        let z = Tensor::normal(0.0, 1.0, &[n], DType::F32, &Device::Cpu, Stream::new(3))?;
        let mut z: Vec<f64> = z.to_vec::<f32>()?.into_iter().map(f64::from).collect();
        let moment = |k: i32| z.iter().map(|z| z.powi(k)).sum::<f64>() / n as f64;
        // Four standard errors of each moment: sqrt(E[z^2k] - E[z^k]^2) / 1024.
        for (k, expected, error) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let bound = 4.0 * f64::sqrt(error) / 1024.0;
            assert!((moment(k) - expected).abs() < bound, "moment {k}: {}", moment(k));
        }
        z.sort_by(f64::total_cmp);
        let ks = z
            .iter()
            .enumerate()
            .map(|(i, &z)| (phi(z) - (i as f64 + 0.5) / n as f64).abs())
            .fold(0.0, f64::max);
        // The 99.9% point of Kolmogorov's statistic.
        assert!(ks < 1.95 / 1024.0, "{ks}");
        let beyond = |s: f64| z.iter().filter(|z| z.abs() > s).count() as f64;
        for s in [3.0, 4.0] {
            let expected = 2.0 * phi(-s) * n as f64;
            assert!((beyond(s) - expected).abs() < 4.0 * expected.sqrt(), "beyond {s}: {}", beyond(s));
        }
        Ok(())
    }

    #[test]
    fn tensors_hold_the_streams_numbers_and_fill_uniformly() -> Result<()> {
        let stream = Stream { seed: 5, step: 1, micro_batch: 2, site: 3 };
        let n = 40_001;
        let u = Tensor::uniform(0.0, 1.0, &[n], DType::F32, &Device::Cpu, stream)?.to_vec::<f32>()?;
        let z = Tensor::normal(0.0, 1.0, &[n], DType::F32, &Device::Cpu, stream)?.to_vec::<f32>()?;
        let d = Tensor::uniform(-1.0, 1.0, &[n], DType::F64, &Device::Cpu, stream)?.to_vec::<f64>()?;
        for i in 0..n as u64 {
            assert_eq!(u[i as usize], stream.uniform(i));
            assert_eq!(z[i as usize], stream.normal(i));
            assert_eq!(d[i as usize], -1.0 + 2.0 * stream.uniform_f64(i));
        }
        let mut buckets = [0f64; 100];
        u.iter().for_each(|u| buckets[(u * 100.0) as usize] += 1.0);
        let expected = n as f64 / 100.0;
        let chi2: f64 = buckets.iter().map(|b| (b - expected).powi(2) / expected).sum();
        // 99.9% of a chi-squared variable with 99 degrees of freedom, and its 0.1%.
        assert!((60.0..149.0).contains(&chi2), "{chi2}");
        Ok(())
    }

    #[test]
    fn permutations_are_permutations_and_differ() {
        let a = Stream::new(1).permutation(1000);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_ne!(a, Stream::new(2).permutation(1000));
        // Each of the six orders of three comes up about as often.
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            *counts.entry(Stream::new(seed).permutation(3)).or_insert(0) += 1;
        }
        assert!(counts.len() == 6 && counts.values().all(|c| (880..1120).contains(c)), "{counts:?}");
    }
}
