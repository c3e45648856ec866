//! Clipping by the norm of all gradients together (Pascanu et al. 2013).

use super::cuda;
use crate::params::Params;
use autograd::Gradients;
use rayon::prelude::*;
use tensor::cpu::simd::dispatch;
use tensor::{Device, Result};

/// The gradients' joint norm, and whether they can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct GradNorm {
    /// √Σg² over all parameters.
    pub norm: f64,
    /// Name of the first parameter with a gradient that is not finite.
    pub non_finite: Option<String>,
}

impl GradNorm {
    /// The factor that brings the norm down to `limit`, at most 1; a limit of 0 means none.
    pub fn clip_factor(&self, limit: f64) -> f32 {
        if limit > 0.0 && self.norm > limit { (limit / self.norm) as f32 } else { 1.0 }
    }
}

/// Norm of all gradients: f64 sums over fixed blocks, joined in order. Waits for a GPU.
pub fn grad_norm(params: &Params, grads: &Gradients) -> Result<GradNorm> {
    const BLOCK: usize = 1 << 14;
    if let Some(Device::Cuda(gpu)) = params.iter().next().map(|param| param.parameter.value.device()) {
        return cuda::grad_norm(gpu, params, grads);
    }
    let mut total = 0.0;
    let mut non_finite = None;
    for param in params.iter() {
        let Some(grad) = grads.get(param.parameter.id) else { continue };
        let blocks: Vec<f64> = grad
            .as_slice::<f32>()?
            .par_chunks(BLOCK)
            .map(|block| {
                dispatch(
                    #[inline(always)]
                    || squares(block),
                )
            })
            .collect();
        let sum: f64 = blocks.iter().sum();
        if !sum.is_finite() && non_finite.is_none() {
            non_finite = Some(param.name.clone());
        }
        total += sum;
    }
    Ok(GradNorm { norm: total.sqrt(), non_finite })
}

#[inline(always)]
fn squares(block: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let chunks = block.chunks_exact(16);
    let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for chunk in chunks {
        for (sum, &x) in lanes.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest
}
