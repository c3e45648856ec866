//! The optimizer of a model: Muon for the matrices, AdamW for the rest.

use super::{AdamW, AdamWState, Muon, MuonState};
use crate::params::{Param, Params, Role};
use autograd::Gradients;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result, Tensor};

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
        Ok(Optimizer { config, states, steps: 0 })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates every parameter that has a gradient with `grad·scale`, at learning rates times `factor`, and refreshes
    /// the ternary codes.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, scale: f32, factor: f64) -> Result<()> {
        self.steps += 1;
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
            target.copy_from(&saved)
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
        Ok(())
    }
}
