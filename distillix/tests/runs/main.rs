//! `distillix train` from outside: interruptions, teachers, numbers that are not finite, full disks, bad input.

mod bad_input;
mod distillation;
mod harness;
mod health;
mod resume;
mod steps;
