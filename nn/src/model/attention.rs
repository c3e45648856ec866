//! Self-attention of a block.

use super::{KvCache, ModelConfig};
use crate::ops::{Attention, NormRope, Reshape, RmsNorm, Rope, RopeTables};
use crate::params::{Params, Role, Specs};
use autograd::{ParamId, Tape, Var};
use smallvec::SmallVec;
use std::sync::Arc;
use tensor::{Device, Error, Result, Tensor};

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

    /// Matrices that read the input.
    pub fn qkv(&self) -> &[ParamId] {
        &self.qkv
    }

    /// q, k, v `[B, T, heads·d]` to `[B, T, H]`. With `relations` also q, k, v `[B, T, heads, d]` as they are between their
    /// norm and the rotary embedding.
    #[allow(clippy::too_many_arguments, reason = "what an attention reads")]
    pub fn forward<'m>(
        &self,
        config: &ModelConfig,
        params: &'m Params,
        tape: &mut Tape<'m>,
        qkv: SmallVec<[Var; 4]>,
        context: &Context,
        cache: Option<(usize, &mut KvCache)>,
        relations: bool,
    ) -> Result<(Var, Option<[Var; 3]>)> {
        let &[b, t, _] = qkv[0].dims() else {
            return Err(Error::shape("attention", format!("q has dims {:?}", qkv[0].dims())));
        };
        let d = config.head_dim;
        let heads = |tape: &mut Tape<'m>, x: &Var, n: usize| {
            tape.apply(Reshape { dims: [b, t, n, d].into_iter().collect() }, &[x])
        };
        let mut q = heads(tape, &qkv[0], config.heads)?;
        let mut k = heads(tape, &qkv[1], config.kv_heads)?;
        let v = heads(tape, &qkv[2], config.kv_heads)?;
        drop(qkv);
        let on_gpu = matches!(q.device(), Device::Cuda(_)) && d <= NormRope::MAX_HEAD_DIM;
        let (eps, mut between) = (config.norm_eps, None);
        if let (Some(norms), true, false) = (self.qk_norm, on_gpu, relations) {
            for (x, norm) in [&mut q, &mut k].into_iter().zip(norms) {
                let gain = tape.param(&params.get(norm).parameter);
                *x = tape.apply(NormRope { eps, tables: Arc::clone(&context.rope) }, &[&*x, &gain])?;
            }
        } else {
            for (x, norm) in [&mut q, &mut k].into_iter().zip(self.qk_norm.iter().flatten()) {
                let gain = tape.param(&params.get(*norm).parameter);
                *x = tape.apply(RmsNorm { eps }, &[&*x, &gain])?;
            }
            between = relations.then(|| [q.clone(), k.clone(), v.clone()]);
            let rope = Rope { tables: Arc::clone(&context.rope) };
            (q, k) = (tape.apply(rope.clone(), &[&q])?, tape.apply(rope, &[&k])?);
        }
        let (mut keys, mut values) = (k, v);
        if let Some((layer, cache)) = cache {
            let [all_keys, all_values] = cache.append(layer, [&keys.detach(), &values.detach()])?;
            (keys, values) = (tape.constant(all_keys), tape.constant(all_values));
        }
        let op = Attention { softcap: config.attn_softcap, first_key: context.first_key.clone() };
        let y = tape.apply(op, &[&q, &keys, &values])?;
        let width = config.heads * d;
        let y = tape.apply(Reshape { dims: [b, t, width].into_iter().collect() }, &[&y])?;
        let mut y = match self.sub_norm {
            Some(norm) => params.project_normed(tape, &y, None, (norm, eps), &[self.o_proj])?.1,
            None => params.project(tape, &y, &[self.o_proj])?,
        };
        Ok((y.remove(0), between))
    }
}
