//! The foundry: from prompts, teachers and existing data to a clean training set.
//!
//! * [`record`] is the one form in which data travels: a JSON line, or a row of Parquet.
//! * [`language`], [`detect`] and [`syntax`] know programming languages.

pub mod detect;
pub mod language;
pub mod record;
pub mod syntax;
