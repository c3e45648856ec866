//! Cross-entropy with label smoothing.

use super::softmax::log_sum_exp;
use super::{RowLoss, RowTarget, Scratch, token};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Float, Result};

/// `(1-ε)·(-log q_target) + ε/V · Σ_v (-log q_v)` with `q = softmax(z)` (Szegedy et al. 2015).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropy {
    /// ε: the share of the target spread over the vocabulary.
    pub label_smoothing: f64,
}

impl RowLoss for CrossEntropy {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        _: &mut Scratch<T>,
    ) -> Result<T> {
        let target = token("cross_entropy", z, target)?;
        let (epsilon, vocab) = (T::from_f64(self.label_smoothing), T::from_f64(z.len() as f64));
        let log_sum = log_sum_exp(z);
        let spread = epsilon / vocab;
        for (dz, &z) in dz.iter_mut().zip(z) {
            *dz += weight * ((z - log_sum).exp() - spread);
        }
        dz[target] -= weight * (T::ONE - epsilon);
        let mut loss = (T::ONE - epsilon) * (log_sum - z[target]);
        if epsilon > T::ZERO {
            loss += epsilon * (log_sum - lanes::sum(z) / vocab);
        }
        Ok(loss)
    }
}
