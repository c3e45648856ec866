//! Gated feed-forward part of a block.

use super::ModelConfig;
use crate::ops::{RmsNorm, SwiGlu};
use crate::params::{Params, Role, Specs};
use autograd::{ParamId, Tape, Var};
use tensor::Result;

/// Places of the parameters of one feed-forward part.
#[derive(Debug)]
pub(super) struct Mlp {
    gate_up: [ParamId; 2],
    down_proj: ParamId,
    sub_norm: Option<ParamId>,
}

impl Mlp {
    pub fn new(config: &ModelConfig, path: &str, specs: &mut Specs) -> Self {
        let (h, mlp) = (config.hidden, config.mlp);
        let mut matrix =
            |name: &str, dims: [usize; 2]| specs.add(format!("{path}.{name}.weight"), Role::Matrix, &dims);
        let gate_up = [matrix("gate_proj", [mlp, h]), matrix("up_proj", [mlp, h])];
        let down_proj = matrix("down_proj", [h, mlp]);
        let sub_norm =
            config.sub_norm.then(|| specs.add(format!("{path}.ffn_sub_norm.weight"), Role::Norm, &[mlp]));
        Mlp { gate_up, down_proj, sub_norm }
    }

    /// x `[B, T, H]` to `[B, T, H]`.
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        x: &Var,
    ) -> Result<Var> {
        let projected = params.project(tape, x, &self.gate_up)?;
        let mut y = tape.apply(SwiGlu, &[&projected[0], &projected[1]])?;
        drop(projected);
        if let Some(norm) = self.sub_norm {
            let gain = tape.param(&params.get(norm).parameter);
            y = tape.apply(RmsNorm { eps: config.norm_eps }, &[&y, &gain])?;
        }
        Ok(params.project(tape, &y, &[self.down_proj])?.remove(0))
    }
}
