//! One block: `h = x + Attn(norm(x))`, then `h + MLP(norm(h))`.

use super::attention::{Context, SelfAttention};
use super::mlp::Mlp;
use super::{KvCache, ModelConfig};
use crate::ops::{Add, RmsNorm};
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

    /// x `[B, T, H]` to `[B, T, H]`, and the attention's q, k, v (see [`SelfAttention::forward`]).
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        x: &Var,
        context: &Context,
        cache: Option<(usize, &mut KvCache)>,
    ) -> Result<(Var, [Var; 3])> {
        let eps = config.norm_eps;
        let gain = tape.param(&params.get(self.input_layernorm).parameter);
        let normed = tape.apply(RmsNorm { eps }, &[x, &gain])?;
        let (attended, qkv) = self.self_attn.forward(config, params, tape, &normed, context, cache)?;
        drop(normed);
        let h = tape.apply(Add, &[x, &attended])?;
        drop(attended);
        let gain = tape.param(&params.get(self.post_attention_layernorm).parameter);
        let normed = tape.apply(RmsNorm { eps }, &[&h, &gain])?;
        let fed = self.mlp.forward(config, params, tape, &normed)?;
        drop(normed);
        Ok((tape.apply(Add, &[&h, &fed])?, qkv))
    }
}
