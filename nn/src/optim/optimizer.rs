//! The optimizer of a model: Muon for the matrices, AdamW for the rest.

use super::cuda::{AdamWRun, Decided, MuonRun};
use super::outcome::{Outcome, PendingOutcome, Skipped, Source};
use super::{AdamW, AdamWState, GradNorm, Muon, MuonState, grad_norm};
use crate::params::{Param, Params, Role};
use crate::ternary::refresh_all;
use autograd::Gradients;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tensor::{DType, Device, Error, Result, Tensor};

/// What optimizes the matrices of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatrixOptimizer {
    /// Muon.
    Muon,
    /// AdamW with the embedding's settings.
    AdamW,
}

/// Settings of [`Optimizer`], at a schedule factor of 1.
#[derive(Clone, Copy, Debug)]
pub struct OptimizerConfig {
    /// Which optimizer the matrices get.
    pub matrices: MatrixOptimizer,
    /// For the matrices, if Muon.
    pub muon: Muon,
    /// For the embedding and the head, with its decay; for the norms without.
    pub adamw: AdamW,
}

#[derive(Debug)]
enum State {
    Muon(MuonState),
    AdamW(AdamWState),
}

/// Optimizer states of every parameter.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    states: Vec<State>,
    steps: u64,
    /// Of [`Optimizer::update`].
    factor: f64,
    grad_scale: f32,
    outcome: Outcome,
    on_gpu: Option<OnGpu>,
}

/// What updates on a GPU read there.
#[derive(Debug)]
struct OnGpu {
    decided: Decided,
    /// Of the learning rates and of the gradients, f32 `[2]`.
    factors: Tensor,
    /// Type of Newton–Schulz.
    dtype: DType,
}

impl Optimizer {
    /// States of zero for `params`.
    pub fn new(config: OptimizerConfig, params: &Params) -> Result<Self> {
        let muon = |p: &Param| p.role == Role::Matrix && config.matrices == MatrixOptimizer::Muon;
        let first = params.like(|_| true)?;
        let second = params.like(|p| !muon(p))?;
        let mut states = Vec::with_capacity(params.len());
        for (first, second) in first.into_iter().zip(second) {
            let Some(mut first) = first else { continue };
            first.fill(0.0)?;
            states.push(match second {
                Some(mut v) => {
                    v.fill(0.0)?;
                    State::AdamW(AdamWState { m: first, v })
                }
                None => State::Muon(MuonState { buf: first }),
            });
        }
        let device = params.iter().next().map(|param| param.parameter.value.device());
        let on_gpu = match &device {
            Some(Device::Cuda(gpu)) => Some(OnGpu {
                decided: Decided::new(*gpu)?,
                factors: Tensor::from_slice(&[1f32; 2], &[2], &Device::Cuda(*gpu))?,
                dtype: DType::F32,
            }),
            _ => None,
        };
        let outcome = Outcome { norm: 0.0, updates: 0, skipped: None };
        Ok(Optimizer { config, states, steps: 0, factor: 1.0, grad_scale: 1.0, outcome, on_gpu })
    }

    /// Computes Newton–Schulz in `dtype` on a GPU: bf16 for training, f32 (the default) to compare with the CPU, which
    /// always takes f32.
    pub fn set_newton_schulz(&mut self, dtype: DType) {
        if let Some(on_gpu) = &mut self.on_gpu {
            on_gpu.dtype = dtype;
        }
    }

    /// Sets, for later calls of [`Optimizer::update`], the factor of the learning rates and one by which all gradients
    /// are multiplied before anything else. Not part of what a graph captures.
    pub fn set_factors(&mut self, learning_rates: f64, gradients: f32) -> Result<()> {
        (self.factor, self.grad_scale) = (learning_rates, gradients);
        match &mut self.on_gpu {
            Some(on_gpu) => on_gpu.factors.copy_from_slice(&[learning_rates as f32, gradients]),
            None => Ok(()),
        }
    }

    /// Clips the gradients' joint norm to `limit` (0 for none), updates every parameter that has a gradient and refreshes
    /// the ternary codes; nothing changes if `loss` (one f32) or a gradient is not finite. On a GPU all of it is decided
    /// there, nothing waits, and the work can be captured: see [`Optimizer::outcome`].
    pub fn update(
        &mut self,
        params: &mut Params,
        grads: &Gradients,
        loss: Option<&Tensor>,
        limit: f64,
    ) -> Result<()> {
        if let Some(on_gpu) = &mut self.on_gpu {
            let OnGpu { decided, factors, .. } = on_gpu;
            decided.decide(params, grads, factors, loss, limit, self.config.adamw.betas)?;
            return self.apply(params, grads);
        }
        let norm = grad_norm(params, grads)?;
        let loss = loss.map(Tensor::item::<f32>).transpose()?;
        let skipped = match loss {
            Some(loss) if !loss.is_finite() => Some(Skipped::Loss),
            _ => norm.non_finite.clone().map(Skipped::Gradient),
        };
        let norm = GradNorm { norm: norm.norm * f64::from(self.grad_scale), ..norm };
        let scale = norm.clip_factor(limit) * self.grad_scale;
        if skipped.is_none() {
            self.step(params, grads, scale, self.factor)?;
        }
        self.outcome = Outcome { norm: norm.norm, updates: self.steps, skipped };
        Ok(())
    }

    /// What the last [`Optimizer::update`] found and did; from a GPU it is asked for and arrives later.
    pub fn outcome(&self) -> Result<PendingOutcome> {
        Ok(PendingOutcome(match &self.on_gpu {
            Some(on_gpu) => Source::Arriving(on_gpu.decided.read_later()?),
            None => Source::Known(self.outcome.clone()),
        }))
    }

    /// Updates every parameter that has a gradient with `grad·scale`, at learning rates times `factor`, and refreshes
    /// the ternary codes.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, scale: f32, factor: f64) -> Result<()> {
        self.steps += 1;
        if let Some(on_gpu) = &mut self.on_gpu {
            on_gpu.decided.set_known(scale, factor, self.steps, self.config.adamw.betas)?;
            return self.apply(params, grads);
        }
        let OptimizerConfig { muon, adamw, .. } = self.config;
        let muon = Muon { lr: muon.lr * factor, ..muon };
        let adamw = AdamW { lr: adamw.lr * factor, ..adamw };
        let steps = self.steps;
        let mut work: Vec<(&mut Param, &mut State)> = params.iter_mut().zip(&mut self.states).collect();
        // Largest first, so that no thread is left with the longest matrix at the end.
        work.sort_by_key(|(param, _)| std::cmp::Reverse(param.parameter.value.numel()));
        work.into_par_iter().try_for_each(|(param, state)| {
            let Some(grad) = grads.get(param.parameter.id) else { return Ok(()) };
            let value = &mut param.parameter.value;
            match state {
                State::Muon(state) => muon.step(value, grad, scale, state)?,
                State::AdamW(state) => {
                    let weight_decay = if param.role == Role::Norm { 0.0 } else { adamw.weight_decay };
                    AdamW { weight_decay, ..adamw }.step(value, grad, scale, state, steps)?;
                }
            }
            if let Some(ternary) = &mut param.ternary {
                ternary.refresh(value)?;
            }
            Ok(())
        })
    }

    /// On a GPU: updates as decided, neighbours in memory together.
    fn apply(&mut self, params: &mut Params, grads: &Gradients) -> Result<()> {
        let Some(OnGpu { decided, dtype, .. }) = &self.on_gpu else { return Ok(()) };
        let OptimizerConfig { muon, adamw, .. } = self.config;
        let work = params.iter_mut().zip(&mut self.states);
        let mut work: Vec<Work<'_>> = work
            .filter_map(|(param, state)| {
                let grad = grads.get(param.parameter.id)?;
                Some((param, state, grad))
            })
            .collect();
        work.sort_by(|(a, ..), (b, ..)| a.memory_key().cmp(&b.memory_key()));
        for run in work.chunk_by_mut(together) {
            let (matrices, numel) = (run.len(), run.iter().map(|(.., grad)| grad.numel()).sum());
            let Some((param, state, grad)) = run.first_mut() else { continue };
            let value = &mut param.parameter.value;
            match state {
                State::Muon(MuonState { buf }) => {
                    let dims = value.dims_n("muon")?;
                    decided.muon(muon, *dtype, MuonRun { param: value, grad, buf, matrices, dims })?;
                }
                State::AdamW(state) => {
                    let weight_decay = if param.role == Role::Norm { 0.0 } else { adamw.weight_decay };
                    let adamw = AdamW { weight_decay, ..adamw };
                    decided.adamw(adamw, AdamWRun { param: value, grad, state, numel })?;
                }
            }
        }
        let mut matrices: Vec<_> = work.into_iter().filter_map(|(param, ..)| param.quantized()).collect();
        refresh_all(&mut matrices)
    }

    /// Names and tensors of the states, for a checkpoint: `<parameter>.muon_buf`, `.adam_m`, `.adam_v`.
    pub fn state<'a>(&'a self, params: &'a Params) -> impl Iterator<Item = (String, &'a Tensor)> {
        params.iter().zip(&self.states).flat_map(|(param, state)| {
            let named = |suffix: &str, tensor| (format!("{}.{suffix}", param.name), tensor);
            match state {
                State::Muon(state) => vec![named("muon_buf", &state.buf)],
                State::AdamW(state) => vec![named("adam_m", &state.m), named("adam_v", &state.v)],
            }
        })
    }

    /// Continues from saved states.
    ///
    /// # Errors
    /// If one is missing or has other dimensions.
    pub fn load(
        &mut self,
        params: &Params,
        steps: u64,
        mut source: impl FnMut(&str) -> Result<Option<Tensor>>,
    ) -> Result<()> {
        let mut fill = |name: String, target: &mut Tensor| {
            let saved = source(&name)?;
            let saved = saved.ok_or_else(|| Error::argument("load", format!("there is no tensor {name}")))?;
            target.copy_from(&saved.to_device(&target.device())?)
        };
        for (param, state) in params.iter().zip(&mut self.states) {
            match state {
                State::Muon(state) => fill(format!("{}.muon_buf", param.name), &mut state.buf)?,
                State::AdamW(state) => {
                    fill(format!("{}.adam_m", param.name), &mut state.m)?;
                    fill(format!("{}.adam_v", param.name), &mut state.v)?;
                }
            }
        }
        self.steps = steps;
        if let Some(on_gpu) = &mut self.on_gpu {
            on_gpu.decided.set_updates(steps)?;
        }
        Ok(())
    }
}

type Work<'a> = (&'a mut Param, &'a mut State, &'a Tensor);

/// Whether one launch can update both: the same optimizer, and everything of `b` follows what `a` has.
fn together(a: &Work<'_>, b: &Work<'_>) -> bool {
    let neighbours = b.0.parameter.value.follows(&a.0.parameter.value) && b.2.follows(a.2);
    neighbours
        && match (&*a.1, &*b.1) {
            (State::Muon(x), State::Muon(y)) => a.2.dims() == b.2.dims() && y.buf.follows(&x.buf),
            (State::AdamW(x), State::AdamW(y)) => {
                (a.0.role == Role::Norm) == (b.0.role == Role::Norm) && y.m.follows(&x.m) && y.v.follows(&x.v)
            }
            _ => false,
        }
}
