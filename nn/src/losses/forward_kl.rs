//! Forward Kullback–Leibler divergence (Hinton et al. 2015).

use super::softmax::log_softmax;
use super::{RowLoss, RowTarget, Scratch, teacher_logits};
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
        let y = teacher_logits("forward_kl", z, target)?;
        let t = T::from_f64(self.temperature);
        let Scratch { student: lq, teacher: lp, .. } = scratch;
        log_softmax(z, t, lq);
        log_softmax(y, t, lp);
        let (lq, lp) = (&lq[..z.len()], &lp[..z.len()]);
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
