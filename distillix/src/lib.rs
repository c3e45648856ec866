//! The application.
pub mod smelter;
pub mod tokenizer;
