//! Reverse Kullback–Leibler divergence (MiniLLM, Gu et al. 2023).

use super::softmax::{add_through_softmax, fill_map2};
use super::{Distributions, RowLoss, RowTarget, Scratch, distributions};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `T² · KL(Q‖P) = T² · Σ q·(log q - log p)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReverseKl {
    /// T, above 0.
    pub temperature: f64,
}

impl Default for ReverseKl {
    fn default() -> Self {
        ReverseKl { temperature: 1.0 }
    }
}

impl RowLoss for ReverseKl {
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
            distributions("reverse_kl", z, target, self.temperature, scratch)?;
        fill_map2(
            slope,
            lq,
            lp,
            #[inline(always)]
            |lq, lp| lq - lp,
        );
        add_through_softmax(lq, slope, weight * t, dz);
        Ok(t * t
            * lanes::sum_map2(
                lq,
                slope,
                #[inline(always)]
                |lq, slope| lq.exp() * slope,
            ))
    }
}
