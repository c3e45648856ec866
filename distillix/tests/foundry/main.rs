//! `distillix foundry` from outside, against servers of our own that answer, count and fail as told.

mod bad_input;
mod budget;
mod checks;
mod faults;
mod generate;
mod harness;
mod kill;
mod mock;
mod opencode;
mod strategies;
