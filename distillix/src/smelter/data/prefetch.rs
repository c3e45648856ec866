//! Batches made ahead of time, on a thread of their own.

use super::dataset::{Dataset, Step};
use anyhow::{Result, anyhow};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// The steps of a range, in order. What they hold is what [`Dataset::step`] gives.
pub struct Prefetch {
    steps: Receiver<Result<Step>>,
    left: Range<u64>,
}

impl Prefetch {
    /// Starts to make the batches of `steps`, at most `ahead` before they are taken. Dropping it ends the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        dataset: Arc<Dataset>,
        steps: Range<u64>,
        micro_batches: usize,
        rows: usize,
        ahead: usize,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(ahead.max(1));
        let left = steps.clone();
        std::thread::Builder::new().name("data".to_owned()).spawn(move || {
            for step in steps {
                let made = dataset.step(step, micro_batches, rows);
                let failed = made.is_err();
                // An error here means that nobody takes batches any more.
                if sender.send(made).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { steps: receiver, left })
    }
}

impl Iterator for Prefetch {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        self.left.next()?;
        Some(self.steps.recv().unwrap_or_else(|_| Err(anyhow!("the thread that makes batches has ended"))))
    }
}
