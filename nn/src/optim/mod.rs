//! Optimizers, their schedule, and gradient clipping.

mod adamw;
mod clip;
mod cuda;
mod muon;
mod newton_schulz;
mod optimizer;
mod outcome;
mod schedule;

pub use adamw::{AdamW, AdamWState};
pub use clip::{GradNorm, grad_norm};
pub use muon::{Muon, MuonState};
pub use newton_schulz::newton_schulz;
pub use optimizer::{MatrixOptimizer, Optimizer, OptimizerConfig};
pub use outcome::{Outcome, PendingOutcome, Skipped};
pub use schedule::{Decay, Schedule};
