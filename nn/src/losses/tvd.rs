//! Total variation distance (f-distill, Wen et al. 2023).

use super::softmax::{add_through_softmax, fill_map2};
use super::{Distributions, RowLoss, RowTarget, Scratch, distributions};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `T² · ½ · Σ |p - q|`; slope 0 where p = q.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tvd {
    /// T, above 0.
    pub temperature: f64,
}

impl Default for Tvd {
    fn default() -> Self {
        Tvd { temperature: 1.0 }
    }
}

impl RowLoss for Tvd {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        let Distributions { t, lq, lp, slope } = distributions("tvd", z, target, self.temperature, scratch)?;
        fill_map2(
            slope,
            lq,
            lp,
            #[inline(always)]
            |lq, lp| lq.exp() - lp.exp(),
        );
        let half = T::from_f64(0.5);
        let loss = half
            * lanes::sum_map(
                slope,
                #[inline(always)]
                |x| x.abs(),
            );
        for slope in slope.iter_mut() {
            let x = *slope;
            *slope = if x > T::ZERO {
                half
            } else if x < T::ZERO {
                -half
            } else {
                T::ZERO
            };
        }
        add_through_softmax(lq, slope, weight * t, dz);
        Ok(t * t * loss)
    }
}
