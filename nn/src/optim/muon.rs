//! Momentum with orthogonalised updates, for matrices (Jordan et al. 2024).

use super::cuda::{Decided, MuonRun};
use super::newton_schulz;
use tensor::{DType, Device, Result, Tensor};

/// One step: `buf = m·buf + g`; `u = g + m·buf`; `O =` [`newton_schulz`]`(u)`;
/// `p = p·(1 - lr·wd) - lr·√max(1, rows/cols)·O`.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Learning rate.
    pub lr: f64,
    /// m.
    pub momentum: f64,
    /// Weight decay, per unit of learning rate. Not for ternary weights: shrinking them makes every step flip codes.
    pub weight_decay: f64,
}

/// The momentum, shaped like the parameter.
#[derive(Debug)]
pub struct MuonState {
    /// Sum of past gradients, decayed.
    pub buf: Tensor,
}

impl Muon {
    /// Updates `param [rows, cols]` and `state` with `grad·scale`. All f32 and contiguous.
    pub fn step(&self, param: &mut Tensor, grad: &Tensor, scale: f32, state: &mut MuonState) -> Result<()> {
        let [rows, cols] = param.dims_n("muon")?;
        if let Device::Cuda(gpu) = param.device() {
            let decided = Decided::known(gpu, scale, 1.0, 1, [0.0; 2])?;
            let run = MuonRun { param, grad, buf: &mut state.buf, matrices: 1, dims: [rows, cols] };
            return decided.muon(*self, DType::F32, run);
        }
        let m = self.momentum as f32;
        let mut u = Tensor::empty(grad.dims(), grad.dtype(), &grad.device())?;
        let from = grad.as_slice::<f32>()?.iter().zip(state.buf.as_mut_slice::<f32>()?);
        for (u, (&g, buf)) in u.as_mut_slice::<f32>()?.iter_mut().zip(from) {
            let g = g * scale;
            *buf = m * *buf + g;
            *u = g + m * *buf;
        }
        let o = newton_schulz(&u)?;
        let keep = (1.0 - self.lr * self.weight_decay) as f32;
        let rate = (self.lr * (rows as f64 / cols as f64).max(1.0).sqrt()) as f32;
        for (p, &o) in param.as_mut_slice::<f32>()?.iter_mut().zip(o.as_slice::<f32>()?) {
            *p = *p * keep - rate * o;
        }
        Ok(())
    }
}
