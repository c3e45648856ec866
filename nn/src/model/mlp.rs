//! Gated feed-forward part of a block.

use super::ModelConfig;
use crate::ops::SwiGlu;
use crate::params::{Params, Role, Specs};
use autograd::{ParamId, Tape, Var};
use smallvec::SmallVec;
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

    /// Matrices that read the input.
    pub fn gate_up(&self) -> &[ParamId] {
        &self.gate_up
    }

    /// Gate and up `[B, T, mlp]` to `[B, T, H]`.
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        gate_up: SmallVec<[Var; 4]>,
    ) -> Result<Var> {
        let (gate_up, down) = ([&gate_up[0], &gate_up[1]], [self.down_proj]);
        let mut y = match self.sub_norm {
            Some(norm) => {
                let y = tape.apply(SwiGlu, &gate_up)?;
                params.project_normed(tape, &y, None, (norm, config.norm_eps), &down)?.1
            }
            None => params.project_gated(tape, gate_up, &down)?,
        };
        Ok(y.remove(0))
    }
}
