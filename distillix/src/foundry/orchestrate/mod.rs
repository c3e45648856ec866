//! Several teachers at once: who answers what, within each server's limits and the budget.

mod backoff;
mod breaker;
mod bucket;
mod choose;
mod engine;
mod gate;
mod strategy;
mod tries;
mod window;
mod worst;

pub use choose::{Tester, UNVERIFIED, Verdict, chooses};
pub use engine::{Engine, Unanswered};
pub use gate::{Gate, GateReport};
pub use strategy::{Unit, outcomes_a_prompt, solve};
