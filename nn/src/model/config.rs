//! Dimensions and switches of the decoder.

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

/// How the matrices of the blocks are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinearKind {
    /// Weights in {-1, 0, 1} with one scale, activations in 8 bits.
    Ternary,
    /// Full precision.
    Dense,
}

/// Dimensions and switches of the decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Rows of the embedding; those past the tokenizer's length take no part.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Width of the gated layer.
    pub mlp: usize,
    /// Longest context in tokens.
    pub max_seq: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// Bound of attention logits; 0 for none.
    pub attn_softcap: f64,
    /// Bound of output logits; 0 for none.
    pub final_softcap: f64,
    /// Norms before `o_proj` and `down_proj`.
    pub sub_norm: bool,
    /// Ternary or dense blocks.
    pub linear: LinearKind,
    /// Norms of each query and key head.
    pub qk_norm: bool,
    /// The output head is the embedding.
    pub tie_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub init_std: f64,
}

impl Default for ModelConfig {
    /// The 125m preset's dimensions.
    fn default() -> Self {
        ModelConfig {
            vocab_size: 32_064,
            hidden: 768,
            layers: 12,
            heads: 12,
            kv_heads: 4,
            head_dim: 64,
            mlp: 2048,
            max_seq: 2048,
            rope_theta: 1e6,
            norm_eps: 1e-6,
            attn_softcap: 50.0,
            final_softcap: 30.0,
            sub_norm: false,
            linear: LinearKind::Ternary,
            qk_norm: true,
            tie_embeddings: true,
            init_std: 0.02,
        }
    }
}

impl ModelConfig {
    /// Checks that the dimensions make a model.
    ///
    /// # Errors
    /// Names the key and what it must be.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::argument("model config", message));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden", self.hidden),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("mlp", self.mlp),
            ("max_seq", self.max_seq),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return fail(format!("model.{key} is 0; it must be at least 1"));
        }
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size > 1 << 24) {
            return fail(format!("model.{key} is {size}; it must be at most {}", 1 << 24));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail(format!(
                "model.heads is {} and model.kv_heads {}; kv_heads must divide heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(format!("model.head_dim is {}; rotary embedding needs it even", self.head_dim));
        }
        let numbers = [
            ("rope_theta", self.rope_theta, self.rope_theta > 0.0),
            ("norm_eps", self.norm_eps, self.norm_eps > 0.0),
            ("attn_softcap", self.attn_softcap, self.attn_softcap >= 0.0),
            ("final_softcap", self.final_softcap, self.final_softcap >= 0.0),
            ("init_std", self.init_std, self.init_std > 0.0),
        ];
        if let Some((key, value, _)) = numbers.iter().find(|(_, value, ok)| !(*ok && value.is_finite())) {
            return fail(format!(
                "model.{key} is {value}; it must be a finite number above 0 (caps: 0 for none)"
            ));
        }
        Ok(())
    }

    /// Number of trained elements.
    pub fn parameters(&self) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let matrices = self.hidden * (2 * q + 2 * kv) + 3 * self.hidden * self.mlp;
        let head_norms = if self.qk_norm { 2 * self.head_dim } else { 0 };
        let sub_norms = if self.sub_norm { q + self.mlp } else { 0 };
        let tables = if self.tie_embeddings { 1 } else { 2 };
        self.layers * (matrices + 2 * self.hidden + head_norms + sub_norms)
            + self.hidden
            + tables * self.vocab_size * self.hidden
    }

    /// Multiply–adds of one token's matrix products in a forward pass, head included, attention scores not.
    pub fn products_per_token(&self) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let block = self.hidden * (2 * q + 2 * kv) + 3 * self.hidden * self.mlp;
        self.layers * block + self.hidden * self.vocab_size
    }
}
