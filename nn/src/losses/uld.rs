//! Universal logit distillation (Boizard et al. 2024).

use super::softmax::{add_through_softmax, log_softmax};
use super::{RowLoss, RowTarget, Scratch};
use serde::{Deserialize, Serialize};
use tensor::cpu::lanes;
use tensor::{Error, Float, Result};

/// `Σ |p₍ᵢ₎ - q₍ᵢ₎|` over the probabilities of each side in descending order, the shorter side padded with zeros: the
/// vocabularies may differ. No factor T². Slope 0 at equality; ties keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uld {
    /// T, above 0.
    pub temperature: f64,
}

impl Default for Uld {
    fn default() -> Self {
        Uld { temperature: 1.0 }
    }
}

impl RowLoss for Uld {
    #[inline(always)]
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T> {
        let RowTarget::Logits(y) = target else {
            return Err(Error::argument("uld", "needs a teacher's logits"));
        };
        let t = T::from_f64(self.temperature);
        let Scratch { student: lq, teacher: lp, slope, order } = scratch;
        log_softmax(z, t, lq);
        log_softmax(y, t, lp);
        lp.sort_by(|a, b| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
        order.clear();
        order.extend(0..lq.len() as u32);
        order.sort_by(|&a, &b| {
            lq[b as usize].partial_cmp(&lq[a as usize]).unwrap_or(std::cmp::Ordering::Equal)
        });
        slope.clear();
        slope.resize(lq.len(), T::ZERO);
        let mut loss = lanes::sum_map(
            &lp[lq.len().min(lp.len())..],
            #[inline(always)]
            |lp| lp.exp(),
        );
        for (rank, &i) in order.iter().enumerate() {
            let p = lp.get(rank).map_or(T::ZERO, |lp| lp.exp());
            let difference = lq[i as usize].exp() - p;
            loss += difference.abs();
            slope[i as usize] = if difference > T::ZERO {
                T::ONE
            } else if difference < T::ZERO {
                -T::ONE
            } else {
                T::ZERO
            };
        }
        add_through_softmax(lq, slope, weight / t, dz);
        Ok(loss)
    }
}
