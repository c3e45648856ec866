//! Sources of training text.

pub mod builtin;
