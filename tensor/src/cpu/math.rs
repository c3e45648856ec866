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
    let p = p * r + 5.000_000_1e-1;
    let y = p * (r * r) + r + 1.0;
    // 2^n in two factors: n reaches from -150 (subnormal results) to 128 (overflow to infinity).
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    y * scale(half) * scale(n - half)
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
    let p = p * s - 3.333_328_2e-1;
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
        assert!((super::exp(-100.0) - 3.783_505_8e-44).abs() < 3e-45);
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
