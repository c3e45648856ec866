//! Parts of code worth filling in.

use super::{CleanConfig, Draft, Stage, Verdict};
use crate::foundry::fim::spans;

/// Adds `fim_spans` to records of code that have none.
pub struct FimSpans {
    most: usize,
}

impl FimSpans {
    /// The stage for a config; `None` if it asks for no spans.
    pub fn new(config: &CleanConfig) -> Option<Self> {
        (config.fim_spans > 0).then_some(Self { most: config.fim_spans })
    }
}

impl Stage for FimSpans {
    fn check(&self, draft: &mut Draft) -> Verdict {
        if draft.record().fim_spans.is_empty()
            && let Some(syntax) = draft.syntax()
        {
            let found = spans(syntax, draft.body(), self.most);
            draft.changed = !found.is_empty();
            draft.record_mut().fim_spans = found;
        }
        Ok(())
    }
}
