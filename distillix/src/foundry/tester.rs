//! Runs the tests of prompts.

use super::orchestrate::Tester;
use std::sync::Arc;

/// A tester that runs nothing.
pub fn tester() -> Tester {
    Arc::new(|_, _| Box::pin(async { Ok(None) }))
}
