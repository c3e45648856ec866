//! Forward Kullback–Leibler divergence (Hinton et al. 2015).

use super::{Distributions, RowLoss, RowTarget, Scratch, distributions};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `T² · KL(P‖Q) = T² · Σ p·(log p - log q)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardKl {
    /// T, above 0.
    pub temperature: f64,
}

impl Default for ForwardKl {
    fn default() -> Self {
        ForwardKl { temperature: 1.0 }
    }
}

impl RowLoss for ForwardKl {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        let Distributions { t, lq, lp, .. } =
            distributions("forward_kl", z, target, self.temperature, scratch)?;
        for ((dz, &lq), &lp) in dz.iter_mut().zip(lq).zip(lp) {
            *dz += weight * t * (lq.exp() - lp.exp());
        }
        Ok(t * t
            * lanes::sum_map2(
                lp,
                lq,
                #[inline(always)]
                |lp, lq| lp.exp() * (lp - lq),
            ))
    }
}
