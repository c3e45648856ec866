//! Keys and values of the tokens read so far.

use super::ModelConfig;
use tensor::{DType, Device, Error, Result, Tensor};

/// Keys and values of one sequence, for every layer, so that a new token attends to what came before without
/// computing it again.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<[Tensor; 2]>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache of elements of `dtype` for up to `capacity` tokens.
    pub(super) fn new(config: &ModelConfig, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let dims = [1, capacity, config.kv_heads, config.head_dim];
        let empty = || Tensor::zeros(&dims, dtype, device);
        let layers = (0..config.layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_>>()?;
        Ok(KvCache { layers, len: 0, capacity })
    }

    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds keys and values `[1, T, kv_heads, d]` of a layer; returns all of them, `[1, len + T, kv_heads, d]`.
    pub(super) fn append(&mut self, layer: usize, new: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let t = new[0].dims_n::<4>("kv_cache")?[1];
        if self.len + t > self.capacity {
            let message = format!("{} tokens and {t} more do not fit a cache of {}", self.len, self.capacity);
            return Err(Error::argument("kv_cache", message));
        }
        for (all, new) in self.layers[layer].iter_mut().zip(new) {
            all.overwrite(1, self.len, new)?;
        }
        let [k, v] = &self.layers[layer];
        Ok([k.narrow(1, 0, self.len + t)?, v.narrow(1, 0, self.len + t)?])
    }

    /// Counts `t` tokens that every layer has appended.
    pub(super) fn advance(&mut self, t: usize) {
        self.len += t;
    }
}
