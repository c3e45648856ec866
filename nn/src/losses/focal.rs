//! Focal cross-entropy (Lin et al. 2017).

use super::softmax::log_sum_exp;
use super::{RowLoss, RowTarget, Scratch, token};
use serde::{Deserialize, Serialize};
use tensor::{Float, Result};

/// `(1 - q_target)^γ · (-log q_target)`; the gradient flows through the weight too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Focal {
    /// γ: how strongly tokens that are already likely are discounted. 0 is cross-entropy.
    pub gamma: f64,
}

impl Default for Focal {
    fn default() -> Self {
        Focal { gamma: 2.0 }
    }
}

impl RowLoss for Focal {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        _: &mut Scratch<T>,
    ) -> Result<T> {
        let target = token("focal", z, target)?;
        let log_sum = log_sum_exp(z);
        // One row's scalars: f64 costs nothing here and keeps 1 - q exact.
        let log_q = (z[target] - log_sum).to_f64();
        let (q, rest) = (log_q.exp(), -log_q.exp_m1());
        let discount = rest.powf(self.gamma);
        let slope = -discount
            + if self.gamma == 0.0 { 0.0 } else { self.gamma * rest.powf(self.gamma - 1.0) * q * log_q };
        let slope = weight * T::from_f64(slope);
        for (dz, &z) in dz.iter_mut().zip(z) {
            *dz -= slope * (z - log_sum).exp();
        }
        dz[target] += slope;
        Ok(T::from_f64(-discount * log_q))
    }
}
