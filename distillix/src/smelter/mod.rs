//! The trainer and what feeds it.

pub mod data;
