//! The foundry: from prompts, teachers and existing data to a clean training set.
//!
//! * [`mod@generate`] is a whole run: [`prompts`] go to teachers as [`orchestrate`] decides, within a [`budget`], and answers into a
//!   [`store`], from which [`mod@derive`] makes an [`output`] file.
//! * [`config`] is the `foundry` section of a config.
//! * [`teacher`] speaks to the servers that answer: one file a protocol.
//! * [`record`] is the one form in which data travels: a JSON line, or a row of Parquet.
//! * [`ingest`] reads records and files of code, [`output`] writes records.
//! * [`clean`] drops what is not worth learning from.
//! * [`statistics`] and [`highlight`] show what a set consists of.
//! * [`sandbox`] runs Python that nobody has read, with its tests.
//! * [`language`], [`detect`] and [`syntax`] know programming languages, [`markdown`] and [`tokens`] other text.

pub mod benchmark;
pub mod budget;
pub mod clean;
pub mod config;
pub mod derive;
pub mod detect;
pub mod fim;
pub mod generate;
pub mod highlight;
pub mod ingest;
pub mod language;
pub mod markdown;
pub mod orchestrate;
pub mod output;
pub mod overlap;
pub mod prompts;
mod python_lexis;
pub mod record;
pub mod sandbox;
pub mod statistics;
pub mod store;
pub mod syntax;
pub mod teacher;
pub mod tester;
pub mod tokens;
