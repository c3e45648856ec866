//! The foundry makes training data: prompts go to teachers, answers into a store, and from there into a file.
//!
//! * [`config`] is the `foundry` section of a config.
//! * [`teacher`] speaks to the servers that answer: one file a protocol.

pub mod config;
pub mod teacher;
