//! The application.

pub mod bench;
pub mod smelter;
pub mod tokenizer;
