//! The foundry: from prompts, teachers and existing data to a clean training set.
//!
//! * [`config`] is the `foundry` section of a config.
//! * [`teacher`] speaks to the servers that answer: one file a protocol.
//! * [`record`] is the one form in which data travels: a JSON line, or a row of Parquet.
//! * [`clean`] drops what is not worth learning from.
//! * [`sandbox`] runs Python that nobody has read, with its tests.
//! * [`language`], [`detect`] and [`syntax`] know programming languages, [`markdown`] and [`tokens`] other text.

pub mod clean;
pub mod config;
pub mod detect;
pub mod language;
pub mod markdown;
pub mod record;
pub mod sandbox;
pub mod syntax;
pub mod teacher;
pub mod tokens;
