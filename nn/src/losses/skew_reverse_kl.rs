//! Skew reverse Kullback–Leibler divergence (DistiLLM, Ko et al. 2024).

use super::softmax::{add_through_softmax, fill_map2, over_mix};
use super::{Distributions, RowLoss, RowTarget, Scratch, distributions};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `T² · KL(Q‖M)` with `M = α·Q + (1-α)·P`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SkewReverseKl {
    /// α: the student's part of the mixture, between 0 and 1 (both excluded).
    pub alpha: f64,
    /// T, above 0.
    pub temperature: f64,
}

impl Default for SkewReverseKl {
    fn default() -> Self {
        SkewReverseKl { alpha: 0.1, temperature: 1.0 }
    }
}

impl RowLoss for SkewReverseKl {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        let Distributions { t, lq, lp, slope } =
            distributions("skew_reverse_kl", z, target, self.temperature, scratch)?;
        let (alpha, rest) = (T::from_f64(self.alpha), T::from_f64(1.0 - self.alpha));
        // For now log q - log m.
        fill_map2(
            slope,
            lq,
            lp,
            #[inline(always)]
            |lq, lp| over_mix(lp - lq, alpha, rest),
        );
        let loss = lanes::sum_map2(
            lq,
            slope,
            #[inline(always)]
            |lq, slope| lq.exp() * slope,
        );
        for slope in slope.iter_mut() {
            *slope -= alpha * slope.exp();
        }
        add_through_softmax(lq, slope, weight * t, dz);
        Ok(t * t * loss)
    }
}
