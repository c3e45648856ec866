//! The foundry: from prompts, teachers and existing data to a clean training set.
//!
//! * [`record`] is the one form in which data travels: a JSON line, or a row of Parquet.
//! * [`sandbox`] runs Python that nobody has read, with its tests.
//! * [`language`], [`detect`] and [`syntax`] know programming languages.

pub mod detect;
pub mod language;
pub mod record;
pub mod sandbox;
pub mod syntax;
