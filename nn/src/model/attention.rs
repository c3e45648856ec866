//! Self-attention of a block.

use super::{KvCache, ModelConfig};
use crate::ops::{Attention, Reshape, RmsNorm, Rope, RopeTables};
use crate::params::{Params, Role, Specs};
use autograd::{ParamId, Tape, Var};
use std::sync::Arc;
use tensor::{Error, Result, Tensor};

/// Places of the parameters of one self-attention.
#[derive(Debug)]
pub(super) struct SelfAttention {
    qkv: [ParamId; 3],
    o_proj: ParamId,
    qk_norm: Option<[ParamId; 2]>,
    sub_norm: Option<ParamId>,
}

/// What the tokens of a pass share: positions and masks.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub rope: Arc<RopeTables>,
    pub first_key: Option<Tensor>,
}

impl SelfAttention {
    pub fn new(config: &ModelConfig, path: &str, specs: &mut Specs) -> Self {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut matrix =
            |name: &str, out, inn| specs.add(format!("{path}.{name}.weight"), Role::Matrix, &[out, inn]);
        let qkv = [
            matrix("q_proj", q, config.hidden),
            matrix("k_proj", kv, config.hidden),
            matrix("v_proj", kv, config.hidden),
        ];
        let o_proj = matrix("o_proj", config.hidden, q);
        let mut norm = |name: &str, n| specs.add(format!("{path}.{name}.weight"), Role::Norm, &[n]);
        let qk_norm = config.qk_norm.then(|| ["q_norm", "k_norm"].map(|name| norm(name, config.head_dim)));
        let sub_norm = config.sub_norm.then(|| norm("attn_sub_norm", q));
        SelfAttention { qkv, o_proj, qk_norm, sub_norm }
    }

    /// x `[B, T, H]` to `[B, T, H]`. Also returns q, k, v `[B, T, heads, d]` as they are before the rotary embedding.
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        x: &Var,
        context: &Context,
        cache: Option<(usize, &mut KvCache)>,
    ) -> Result<(Var, [Var; 3])> {
        let [b, t, _]: [usize; 3] = x
            .dims()
            .try_into()
            .map_err(|_| Error::shape("attention", format!("x has dims {:?}", x.dims())))?;
        let eps = config.norm_eps;
        let projected = params.project(tape, x, &self.qkv)?;
        let heads = |tape: &mut Tape<'m>, x: &Var, n: usize, norm: Option<ParamId>| {
            let dims = [b, t, n, config.head_dim].into_iter().collect();
            let x = tape.apply(Reshape { dims }, &[x])?;
            let Some(norm) = norm else { return Ok(x) };
            let gain = tape.param(&params.get(norm).parameter);
            tape.apply(RmsNorm { eps }, &[&x, &gain])
        };
        let q = heads(tape, &projected[0], config.heads, self.qk_norm.map(|n| n[0]))?;
        let k = heads(tape, &projected[1], config.kv_heads, self.qk_norm.map(|n| n[1]))?;
        let v = heads(tape, &projected[2], config.kv_heads, None)?;
        drop(projected);
        let rope = Rope { tables: Arc::clone(&context.rope) };
        let (q_rotated, mut keys) = (tape.apply(rope.clone(), &[&q])?, tape.apply(rope, &[&k])?);
        let mut values = v.clone();
        if let Some((layer, cache)) = cache {
            let [all_keys, all_values] = cache.append(layer, [&keys.detach(), &values.detach()])?;
            (keys, values) = (tape.constant(all_keys), tape.constant(all_values));
        }
        let op = Attention { softcap: config.attn_softcap, first_key: context.first_key.clone() };
        let y = tape.apply(op, &[&q_rotated, &keys, &values])?;
        let width = config.heads * config.head_dim;
        let mut y = tape.apply(Reshape { dims: [b, t, width].into_iter().collect() }, &[&y])?;
        if let Some(norm) = self.sub_norm {
            let gain = tape.param(&params.get(norm).parameter);
            y = tape.apply(RmsNorm { eps }, &[&y, &gain])?;
        }
        let y = params.project(tape, &y, &[self.o_proj])?.remove(0);
        Ok((y, [q, k, v]))
    }
}
