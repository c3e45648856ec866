//! The application.

pub mod cli;
pub mod smelter;
pub mod tokenizer;
pub mod verify;
