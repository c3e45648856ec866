//! Tokenizers: training, and later loading and encoding.

pub mod train;
