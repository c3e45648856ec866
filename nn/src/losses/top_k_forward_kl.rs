//! Forward KL from what a teacher cache stores: its likeliest tokens, and one bucket for the rest.

use super::softmax::log_sum_exp;
use super::{RowLoss, RowTarget, Scratch};
use serde::{Deserialize, Serialize};
use tensor::{Error, Float, Result};

/// `T² · [Σ_k p·(log p - log q) + p_rest·(log p_rest - log q_rest)]`, where the rest is one bucket:
/// `p_rest = max(0, 1 - Σ_k p)` and `q_rest` the student's mass outside the k tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopKForwardKl {
    /// T, above 0; the temperature of the stored log-probabilities too.
    pub temperature: f64,
}

impl Default for TopKForwardKl {
    fn default() -> Self {
        TopKForwardKl { temperature: 1.0 }
    }
}

impl RowLoss for TopKForwardKl {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        const NAME: &str = "top_k_forward_kl";
        let RowTarget::TopK { ids, log_probs } = target else {
            return Err(Error::argument(NAME, "needs a teacher's top k"));
        };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= z.len()) {
            return Err(Error::argument(NAME, format!("teacher token {id} in a vocabulary of {}", z.len())));
        }
        let t = T::from_f64(self.temperature);
        let Scratch { student: scaled, teacher: outside, .. } = scratch;
        scaled.clear();
        scaled.extend(z.iter().map(|&z| z / t));
        outside.clear();
        outside.extend_from_slice(scaled);
        for &id in ids {
            outside[id as usize] = T::NEG_INFINITY;
        }
        let (log_sum, log_outside) = (log_sum_exp(scaled), log_sum_exp(outside));
        let (mut loss, mut mass) = (T::ZERO, T::ZERO);
        for (&id, &lp) in ids.iter().zip(log_probs) {
            let p = lp.exp();
            mass += p;
            loss += p * (lp - (scaled[id as usize] - log_sum));
            dz[id as usize] -= weight * t * p;
        }
        let rest = (T::ONE - mass).max(T::ZERO);
        if rest > T::ZERO {
            loss += rest * (rest.ln() - (log_outside - log_sum));
            for (dz, &x) in dz.iter_mut().zip(outside.iter()) {
                *dz -= weight * t * rest * (x - log_outside).exp();
            }
        }
        for (dz, &x) in dz.iter_mut().zip(scaled.iter()) {
            *dz += weight * t * (mass + rest) * (x - log_sum).exp();
        }
        Ok(t * t * loss)
    }
}
