//! What the stages did.

use crate::foundry::ingest::Unreadable;
use crate::foundry::record::Record;
use serde::Serialize;
use std::collections::BTreeMap;

/// So many dropped records of a stage are shown.
const EXAMPLES: usize = 3;
/// So many characters of each.
const EXCERPT: usize = 160;

/// What a pipeline did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Records that came in.
    pub records: u64,
    /// Records that passed every stage.
    pub kept: u64,
    /// The stages in their order.
    pub stages: Vec<StageReport>,
}

/// What one stage did.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// The stage.
    pub stage: &'static str,
    /// Records that reached it.
    pub seen: u64,
    /// Records that it changed.
    pub changed: u64,
    /// Records that it dropped.
    pub dropped: u64,
    /// Those by the kind of fault.
    pub reasons: BTreeMap<&'static str, u64>,
    /// The first of them.
    pub examples: Vec<Example>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// A dropped record.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// Its id.
    pub id: String,
    /// Where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The kind of fault.
    pub reason: &'static str,
    /// What exactly.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Its beginning.
    pub excerpt: String,
}

impl StageReport {
    pub(super) fn new(stage: &'static str) -> Self {
        let (reasons, examples) = (BTreeMap::new(), Vec::new());
        Self { stage, seen: 0, changed: 0, dropped: 0, reasons, examples, remark: None }
    }

    /// Counts a dropped record.
    pub(super) fn count(&mut self, reason: &'static str, detail: &str, record: &Record) {
        self.dropped += 1;
        *self.reasons.entry(reason).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example {
                id: record.id.clone(),
                source: record.source.clone(),
                reason,
                detail: detail.to_owned(),
                excerpt: record.body().unwrap_or_default().chars().take(EXCERPT).collect(),
            });
        }
    }

    /// Counts what is no record.
    pub(super) fn count_unreadable(&mut self, wrong: Unreadable) {
        let Unreadable { place, reason, detail } = wrong;
        self.dropped += 1;
        *self.reasons.entry(reason).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example { id: place, source: None, reason, detail, excerpt: String::new() });
        }
    }
}
