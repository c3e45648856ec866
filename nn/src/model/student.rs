//! The whole decoder.

use super::attention::Context;
use super::block::Block;
use super::{KvCache, LinearKind, ModelConfig};
use crate::losses::Loss;
use crate::ops::{Add, Embedding, HeadLoss, Reshape, RmsNorm, RopeTables, Teacher, head_logits};
use crate::params::{Params, Role, Spec, Specs};
use autograd::{ParamId, Tape, Var};
use std::sync::Arc;
use tensor::{DType, Device, Error, Result, Stream, Tensor};

/// A Llama-like decoder with ternary or dense blocks and a full-precision embedding and head.
#[derive(Debug)]
pub struct Student {
    config: ModelConfig,
    /// Tokens of the tokenizer; the rest of the vocabulary takes no part.
    vocab: usize,
    params: Params,
    embed_tokens: ParamId,
    blocks: Vec<Block>,
    norm: ParamId,
    lm_head: Option<ParamId>,
    rope: RopeTables,
    /// Type of the activations.
    compute: DType,
}

/// Tokens of a pass.
#[derive(Clone, Debug)]
pub struct Input {
    /// u32 `[B, T]`.
    pub ids: Tensor,
    /// First position that each token sees (where its document begins), u32 `[B, T]`; `None` for the first of all.
    pub first_key: Option<Tensor>,
}

/// q, k, v of one layer, after the head norms and before the rotary embedding, `[B, T, heads, d]`.
pub type Relations = [Var; 3];

/// Where the parameters of a model go, before memory is taken.
struct Plan {
    specs: Specs,
    embed_tokens: ParamId,
    blocks: Vec<Block>,
    norm: ParamId,
    lm_head: Option<ParamId>,
}

impl Plan {
    fn new(config: &ModelConfig) -> Self {
        let mut specs = Specs::default();
        let table = [config.vocab_size, config.hidden];
        let embed_tokens = specs.add("model.embed_tokens.weight".into(), Role::Embedding, &table);
        let blocks = (0..config.layers)
            .map(|i| Block::new(config, &format!("model.layers.{i}"), &mut specs))
            .collect();
        let norm = specs.add("model.norm.weight".into(), Role::Norm, &[config.hidden]);
        let lm_head =
            (!config.tie_embeddings).then(|| specs.add("lm_head.weight".into(), Role::Embedding, &table));
        Plan { specs, embed_tokens, blocks, norm, lm_head }
    }
}

impl Student {
    /// Name, role and dimensions of every parameter of a model, without building one.
    ///
    /// # Errors
    /// If `config` is no model.
    pub fn specs(config: &ModelConfig) -> Result<Vec<Spec>> {
        config.validate()?;
        Ok(Plan::new(config).specs.list().to_vec())
    }

    /// A model whose weights `init` fills (norms are 1). `vocab` is the tokenizer's length.
    pub fn new(
        config: ModelConfig,
        vocab: usize,
        device: &Device,
        init: impl FnMut(ParamId, &Spec, &mut Tensor) -> Result<()>,
    ) -> Result<Self> {
        config.validate()?;
        if vocab == 0 || vocab > config.vocab_size {
            let message = format!("{vocab} tokens do not fit model.vocab_size {}", config.vocab_size);
            return Err(Error::argument("model config", message));
        }
        let Plan { specs, embed_tokens, blocks, norm, lm_head } = Plan::new(&config);
        let params = specs.build(config.linear == LinearKind::Ternary, device, init)?;
        let rope =
            RopeTables::new(0..config.max_seq, config.head_dim, config.rope_theta, DType::F32, device)?;
        Ok(Student { config, vocab, params, embed_tokens, blocks, norm, lm_head, rope, compute: DType::F32 })
    }

    /// A model with normal weights of standard deviation `config.init_std`; each parameter has its own random stream.
    pub fn random(config: ModelConfig, vocab: usize, device: &Device, seed: u64) -> Result<Self> {
        let std = config.init_std;
        Self::new(config, vocab, device, |id, spec, value| {
            let stream = Stream { site: id.0 as u32, ..Stream::new(seed) };
            value.copy_from(&Tensor::normal(0.0, std, &spec.dims, DType::F32, &value.device(), stream)?)
        })
    }

    /// Dimensions and switches.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of tokens.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The trained tensors.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The trained tensors, for the optimizer.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Where the weights lie and the model runs.
    pub fn device(&self) -> Device {
        self.params.get(self.embed_tokens).parameter.value.device()
    }

    /// Type of the activations, f32 at first. The weights stay f32.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Computes activations in `dtype`: f32, or bf16 on a GPU.
    ///
    /// # Errors
    /// If it is another type, or bf16 on the CPU.
    pub fn set_compute(&mut self, dtype: DType) -> Result<()> {
        match (dtype, self.device()) {
            (DType::F32, _) | (DType::BF16, Device::Cuda(_)) => {}
            _ => return Err(Error::dtype("set_compute", "f32, or bf16 on a GPU", dtype)),
        }
        self.compute = dtype;
        Ok(())
    }

    /// An empty cache for decoding up to `capacity` tokens of one sequence.
    pub fn kv_cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config, capacity, self.compute, &self.device())
    }

    fn head(&self) -> ParamId {
        self.lm_head.unwrap_or(self.embed_tokens)
    }

    fn context(&self, input: &Input, start: usize) -> Result<(Context, [usize; 2])> {
        let [b, t] = input.ids.dims_n("forward")?;
        if start + t > self.config.max_seq {
            let message = format!("{} tokens are more than model.max_seq {}", start + t, self.config.max_seq);
            return Err(Error::argument("forward", message));
        }
        let rope = Arc::new(self.rope.narrow(start, t)?);
        Ok((Context { rope, first_key: input.first_key.clone() }, [b, t]))
    }

    /// Hidden states after the final norm, `[B·T, H]`. With `recompute`, blocks are computed again in the backward pass
    /// instead of remembered. `relations_of` is a layer whose q, k, v are returned too.
    pub fn hidden<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        input: &Input,
        recompute: bool,
        relations_of: Option<usize>,
    ) -> Result<(Var, Option<Relations>)> {
        let (context, _) = self.context(input, 0)?;
        let (mut x, mut delta) = (self.embed(tape, input)?, None);
        let mut relations = None;
        for (i, block) in self.blocks.iter().enumerate() {
            if recompute && relations_of != Some(i) && tape.is_recording() {
                let context = context.clone();
                // One tensor a block is remembered, so the sum is not left to the next.
                let run = move |tape: &mut Tape<'m>, x: &[Var]| {
                    let (config, params) = (&self.config, &self.params);
                    let ([x, delta], _) =
                        block.forward(config, params, tape, &x[0], None, &context, None, false)?;
                    Ok(vec![tape.apply(Add, &[&x, &delta])?])
                };
                x = sum(tape, x, delta.take())?;
                x = tape.checkpoint(&[&x], run)?.remove(0);
            } else {
                let (config, params, wanted) = (&self.config, &self.params, relations_of == Some(i));
                let ([y, fed], qkv) =
                    block.forward(config, params, tape, &x, delta.as_ref(), &context, None, wanted)?;
                (x, delta) = (y, Some(fed));
                relations = relations.or(qkv);
            }
        }
        let x = sum(tape, x, delta)?;
        Ok((self.final_norm(tape, &x)?, relations))
    }

    fn embed<'m>(&'m self, tape: &mut Tape<'m>, input: &Input) -> Result<Var> {
        let table = tape.param(&self.params.get(self.embed_tokens).parameter);
        let ids = tape.constant(input.ids.clone());
        tape.apply(Embedding { dtype: Some(self.compute) }, &[&table, &ids])
    }

    fn final_norm<'m>(&'m self, tape: &mut Tape<'m>, x: &Var) -> Result<Var> {
        let rows = x.dims()[..2].iter().product();
        let gain = tape.param(&self.params.get(self.norm).parameter);
        let normed = tape.apply(RmsNorm { eps: self.config.norm_eps }, &[x, &gain])?;
        tape.apply(Reshape { dims: [rows, self.config.hidden].into_iter().collect() }, &[&normed])
    }

    /// Loss of hidden states `[N, H]` against `targets`, i32 `[N]`: the scalar, and its unweighted terms `[terms]`, which a
    /// GPU may still be computing.
    pub fn loss<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        hidden: &Var,
        targets: Tensor,
        terms: Vec<(f64, Loss)>,
        denominator: f64,
        teacher: Option<Teacher>,
    ) -> Result<(Var, Tensor)> {
        let table = tape.param(&self.params.get(self.head()).parameter);
        let softcap = self.config.final_softcap;
        let op = HeadLoss { terms, targets, denominator, softcap, vocab: self.vocab, teacher };
        let mut outputs = tape.apply_n(op, &[hidden, &table])?;
        let terms = outputs.remove(1).detach();
        Ok((outputs.remove(0), terms))
    }

    /// What this model, as a teacher, says of the positions of `input`.
    pub fn teach(
        &self,
        input: &Input,
        relations_of: Option<usize>,
    ) -> Result<(Teacher, Option<[Tensor; 3]>)> {
        let (hidden, relations) = self.hidden(&mut Tape::inference(), input, false, relations_of)?;
        let teacher = Teacher::Hidden {
            hidden: hidden.detach(),
            table: self.params.get(self.head()).parameter.value.clone(),
            softcap: self.config.final_softcap,
            vocab: self.vocab,
        };
        Ok((teacher, relations.map(|qkv| qkv.map(|x| x.detach()))))
    }

    /// Logits of every position, `[B·T, vocab]`.
    pub fn logits(&self, input: &Input) -> Result<Tensor> {
        let (hidden, _) = self.hidden(&mut Tape::inference(), input, false, None)?;
        self.logits_of(&hidden.detach())
    }

    fn logits_of(&self, hidden: &Tensor) -> Result<Tensor> {
        let table = &self.params.get(self.head()).parameter.value;
        head_logits(hidden, table, self.config.final_softcap, self.vocab)
    }

    /// Reads more tokens of one sequence, u32 `[1, T]`, after those in the cache, and returns the logits after the
    /// last, `[1, vocab]`.
    pub fn decode(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let input = Input { ids: ids.clone(), first_key: None };
        let (context, [_, t]) = self.context(&input, cache.len())?;
        let mut tape = Tape::inference();
        let (mut x, mut delta) = (self.embed(&mut tape, &input)?, None);
        for (i, block) in self.blocks.iter().enumerate() {
            let (config, params, cache) = (&self.config, &self.params, Some((i, &mut *cache)));
            let ([y, fed], _) =
                block.forward(config, params, &mut tape, &x, delta.as_ref(), &context, cache, false)?;
            (x, delta) = (y, Some(fed));
        }
        let x = sum(&mut tape, x, delta)?;
        cache.advance(t);
        let last = tape.constant(x.detach().narrow(1, t - 1, 1)?);
        let hidden = self.final_norm(&mut tape, &last)?;
        self.logits_of(&hidden.detach())
    }
}

/// The residual stream: x, or x + delta.
fn sum(tape: &mut Tape<'_>, x: Var, delta: Option<Var>) -> Result<Var> {
    match delta {
        Some(delta) => tape.apply(Add, &[&x, &delta]),
        None => Ok(x),
    }
}
