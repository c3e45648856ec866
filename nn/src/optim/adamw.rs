//! Adam with decoupled weight decay (Loshchilov & Hutter 2017).

use super::cuda::{AdamWRun, Decided};
use rayon::prelude::*;
use tensor::cpu::parallel::rows_per_task;
use tensor::cpu::simd::dispatch;
use tensor::{Device, Result, Tensor};

/// One step t = 1, 2, …: `p = p·(1 - lr·wd)`; `m = β₁·m + (1-β₁)·g`; `v = β₂·v + (1-β₂)·g²`;
/// `p = p - lr/(1-β₁ᵗ) · m / (√v/√(1-β₂ᵗ) + ε)`.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the two averages.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

/// Averages of the gradient and of its square, shaped like the parameter.
#[derive(Debug)]
pub struct AdamWState {
    /// Average of the gradient.
    pub m: Tensor,
    /// Average of its square.
    pub v: Tensor,
}

impl AdamW {
    /// Updates `param` and `state` with `grad·scale`; `step` counts from 1. All f32 and contiguous.
    pub fn step(
        &self,
        param: &mut Tensor,
        grad: &Tensor,
        scale: f32,
        state: &mut AdamWState,
        step: u64,
    ) -> Result<()> {
        if let Device::Cuda(gpu) = param.device() {
            let decided = Decided::known(gpu, scale, 1.0, step, self.betas)?;
            return decided.adamw(*self, AdamWRun { param, grad, state, numel: grad.numel() });
        }
        let [b1, b2] = self.betas;
        let (b1_rest, b2_rest) = ((1.0 - b1) as f32, (1.0 - b2) as f32);
        let correct_v = (1.0 / (1.0 - b2.powf(step as f64)).sqrt()) as f32;
        let rate = (self.lr / (1.0 - b1.powf(step as f64))) as f32;
        let (keep, b1, b2, eps) =
            ((1.0 - self.lr * self.weight_decay) as f32, b1 as f32, b2 as f32, self.eps as f32);
        let n = rows_per_task(1);
        (
            param.as_mut_slice::<f32>()?.par_chunks_mut(n),
            grad.as_slice::<f32>()?.par_chunks(n),
            state.m.as_mut_slice::<f32>()?.par_chunks_mut(n),
            state.v.as_mut_slice::<f32>()?.par_chunks_mut(n),
        )
            .into_par_iter()
            .for_each(|(p, g, m, v)| {
                dispatch(
                    #[inline(always)]
                    || {
                        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                            let g = g * scale;
                            *m = b1 * *m + b1_rest * g;
                            *v = b2 * *v + b2_rest * (g * g);
                            *p = *p * keep - rate * (*m / (v.sqrt() * correct_v + eps));
                        }
                    },
                )
            });
        Ok(())
    }
}
