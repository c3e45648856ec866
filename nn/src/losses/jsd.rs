//! Generalised Jensen–Shannon divergence (GKD, Agarwal et al. 2023).

use super::softmax::{add_through_softmax, fill_map2, over_mix};
use super::{Distributions, RowLoss, RowTarget, Scratch, distributions};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `T² · (β·KL(P‖M) + (1-β)·KL(Q‖M))` with `M = β·P + (1-β)·Q`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jsd {
    /// β: the teacher's part of the mixture, between 0 and 1 (both excluded).
    pub beta: f64,
    /// T, above 0.
    pub temperature: f64,
}

impl Default for Jsd {
    fn default() -> Self {
        Jsd { beta: 0.5, temperature: 1.0 }
    }
}

impl RowLoss for Jsd {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        let Distributions { t, lq, lp, slope } = distributions("jsd", z, target, self.temperature, scratch)?;
        let (beta, rest) = (T::from_f64(self.beta), T::from_f64(1.0 - self.beta));
        // The slope with respect to q comes to (1-β)·(log q - log m); the other terms sum to a constant.
        fill_map2(
            slope,
            lq,
            lp,
            #[inline(always)]
            |lq, lp| over_mix(lp - lq, rest, beta),
        );
        let loss = lanes::sum_map3(
            lq,
            lp,
            slope,
            #[inline(always)]
            |lq, lp, slope| beta * lp.exp() * over_mix(lq - lp, beta, rest) + rest * lq.exp() * slope,
        );
        add_through_softmax(lq, slope, weight * t * rest, dz);
        Ok(t * t * loss)
    }
}
