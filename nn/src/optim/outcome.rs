//! What an update found in the gradients, and whether it changed anything.

use super::cuda;
use crate::params::Params;
use tensor::Result;
use tensor::cuda::Pending;

/// Why an update changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The loss is not finite.
    Loss,
    /// A gradient is not finite: the name of its parameter, the first of all.
    Gradient(String),
}

/// What an update found and did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// √Σg² over all gradients, scaled, before clipping.
    pub norm: f64,
    /// Updates so far that changed something.
    pub updates: u64,
    /// Why nothing was changed, if so.
    pub skipped: Option<Skipped>,
}

/// The outcome of an update; from a GPU it arrives later.
pub struct PendingOutcome(pub(super) Source);

pub(super) enum Source {
    Known(Outcome),
    Arriving(Pending),
}

impl PendingOutcome {
    /// The outcome, waiting for it if it has not arrived. `params` are those that were updated.
    pub fn get(self, params: &Params) -> Result<Outcome> {
        match self.0 {
            Source::Known(outcome) => Ok(outcome),
            Source::Arriving(pending) => cuda::outcome(&pending.get::<u32>()?, params),
        }
    }
}
