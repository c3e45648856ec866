//! One block: `h = x + Attn(norm(x))`, then `h + MLP(norm(h))`, whose sum is left to whoever comes next.

use super::attention::{Context, SelfAttention};
use super::mlp::Mlp;
use super::{KvCache, ModelConfig};
use crate::params::{Params, Role, Specs};
use autograd::{ParamId, Tape, Var};
use tensor::Result;

/// Places of the parameters of one block.
#[derive(Debug)]
pub(super) struct Block {
    input_layernorm: ParamId,
    self_attn: SelfAttention,
    post_attention_layernorm: ParamId,
    mlp: Mlp,
}

impl Block {
    pub fn new(config: &ModelConfig, path: &str, specs: &mut Specs) -> Self {
        let norm = |specs: &mut Specs, name: &str| {
            specs.add(format!("{path}.{name}.weight"), Role::Norm, &[config.hidden])
        };
        Block {
            input_layernorm: norm(specs, "input_layernorm"),
            self_attn: SelfAttention::new(config, &format!("{path}.self_attn"), specs),
            post_attention_layernorm: norm(specs, "post_attention_layernorm"),
            mlp: Mlp::new(config, &format!("{path}.mlp"), specs),
        }
    }

    /// From x, or x + delta, `[B, T, H]`, to the two parts of the sum that the block gives. Also q, k, v if `relations` is
    /// set (see [`SelfAttention::forward`]).
    #[allow(clippy::too_many_arguments, reason = "what a block reads")]
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        x: &Var,
        delta: Option<&Var>,
        context: &Context,
        cache: Option<(usize, &mut KvCache)>,
        relations: bool,
    ) -> Result<([Var; 2], Option<[Var; 3]>)> {
        let (norm, eps) = (self.input_layernorm, config.norm_eps);
        let (x, qkv) = params.project_normed(tape, x, delta, (norm, eps), self.self_attn.qkv())?;
        let (attended, qkv) = self.self_attn.forward(config, params, tape, qkv, context, cache, relations)?;
        let norm = (self.post_attention_layernorm, eps);
        let (h, gate_up) = params.project_normed(tape, &x, Some(&attended), norm, self.mlp.gate_up())?;
        drop((x, attended));
        let fed = self.mlp.forward(config, params, tape, gate_up)?;
        Ok(([h, fed], qkv))
    }
}
