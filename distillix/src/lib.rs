//! The application.

pub mod bench;
pub mod cli;
pub mod run;
pub mod smelter;
pub mod tokenizer;
pub mod verify;
