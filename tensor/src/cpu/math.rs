//! Elementary functions in f32 as branch-free polynomials, so that loops over them vectorise and every machine
//! gets the same bits.

/// e^x within 2 ulp; 0 below -104, infinity above 88.72.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cody–Waite reduction x = n·ln 2 + r, |r| ≤ ln 2 / 2, then a degree-6 minimax polynomial for e^r.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    // Adding 1.5·2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HI) - n * LN2_LO;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // 2^n in two factors: n reaches from -150 (subnormal results) to 128 (overflow to infinity).
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    y * scale(half) * scale(n - half)
}

/// Natural logarithm within 2 ulp; negative infinity at ±0, NaN below.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // Subnormal numbers are scaled up first.
    const TWO_23: f32 = 8_388_608.0;
    let small = x < f32::MIN_POSITIVE;
    let y = ln_normal(if small { x * TWO_23 } else { x }, if small { -23.0 } else { 0.0 });
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x == f32::INFINITY { x } else { y };
    // Also false for NaN.
    if x >= 0.0 { y } else { f32::NAN }
}

/// ln(x·2^shift) for a positive, normal, finite `x`. Only +, -, × and bit operations: the same bits everywhere.
#[inline(always)]
pub(crate) fn ln_normal(x: f32, shift: f32) -> f32 {
    // x = 2^e·(1 + f) with 1 + f between √½ and √2; ln(1 + f) = f - f²/2 + f³·P(f), P fitted by minimax.
    const SQRT_HALF_BITS: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32;
    let e = bits.wrapping_sub(SQRT_HALF_BITS) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    let p = -7.634_438e-2;
    let p = p * f + 1.276_156_3e-1;
    let p = p * f - 1.316_019_7e-1;
    let p = p * f + 1.420_176e-1;
    let p = p * f - 1.662_335_5e-1;
    let p = p * f + 2.000_122_7e-1;
    let p = p * f - 2.500_082_3e-1;
    let p = p * f + 3.333_333e-1;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let e = e as f32 + shift;
    let s = f * f;
    (p * s * f + e * LN2_LO - 0.5 * s + f) + e * LN2_HI
}

/// Hyperbolic tangent, within 3 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // Near zero 1 - 2/(e^2a + 1) cancels; an odd polynomial takes over.
    let s = a * a;
    let p = -5.704_988_7e-3;
    let p = p * s + 2.063_908_7e-2;
    let p = p * s - 5.373_971_4e-2;
    let p = p * s + 1.333_144_2e-1;
    let p = p * s - 3.333_328e-1;
    let small = p * s * a + a;
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let y = if a < 0.625 { small } else { large };
    y.copysign(x)
}

#[cfg(test)]
mod tests {
    fn worst(f: impl Fn(f32) -> f32, oracle: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let n = 400_000;
        (0..=n)
            .map(|i| from + (to - from) * (i as f32 / n as f32))
            .map(|x| (f64::from(f(x)) - oracle(f64::from(x))).abs() / oracle(f64::from(x)).abs().max(1e-37))
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_accurate() {
        let error = worst(super::exp, f64::exp, -87.0, 88.7);
        assert!(error < 2.0 * f64::from(f32::EPSILON), "{error:e}");
        assert_eq!(super::exp(0.0), 1.0);
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(super::exp(100.0), f32::INFINITY);
        assert!(super::exp(f32::NAN).is_nan());
        assert!((super::exp(-100.0) - 3.8e-44).abs() < 3e-45);
    }

    #[test]
    fn ln_is_accurate() {
        for (from, to) in [(1e-30, 1e-20), (0.01, 0.99), (1.01, 3.0), (3.0, 1e6), (1e30, 3e38)] {
            let error = worst(super::ln, f64::ln, from, to);
            assert!(error < 2.0 * f64::from(f32::EPSILON), "{from}..{to}: {error:e}");
        }
        let near_one = worst(super::ln, f64::ln, 0.99, 1.01);
        assert!(near_one < 2.0 * f64::from(f32::EPSILON), "{near_one:e}");
        assert_eq!(super::ln(1.0), 0.0);
        assert_eq!(super::ln(0.0), f32::NEG_INFINITY);
        assert_eq!(super::ln(-0.0), f32::NEG_INFINITY);
        assert_eq!(super::ln(f32::INFINITY), f32::INFINITY);
        assert!(super::ln(-1.0).is_nan() && super::ln(f32::NAN).is_nan());
        assert!((super::ln(1e-42) - 1e-42f32.log2() * std::f32::consts::LN_2).abs() < 1e-4);
    }

    #[test]
    fn tanh_is_accurate() {
        let error = worst(super::tanh, f64::tanh, -12.0, 12.0);
        assert!(error < 3.0 * f64::from(f32::EPSILON), "{error:e}");
        assert_eq!(super::tanh(100.0), 1.0);
        assert_eq!(super::tanh(f32::NEG_INFINITY), -1.0);
        assert!(super::tanh(f32::NAN).is_nan());
        assert_eq!(super::tanh(-0.0).to_bits(), (-0.0f32).to_bits());
    }
}
