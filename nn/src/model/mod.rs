//! The decoder: configuration, blocks, cache, and the whole model.

mod attention;
mod block;
mod config;
mod kv_cache;
mod mlp;
mod student;

pub use config::{LinearKind, ModelConfig};
pub use kv_cache::KvCache;
pub use student::{Input, Relations, Student};
