//! The `foundry.clean` section of a config.

use super::STAGES;
use crate::foundry::language::Language;
use crate::smelter::config::suggestion;
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How records are cleaned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanConfig {
    /// Stages that do not run, by name.
    pub skip: Vec<String>,
    /// Keep these languages only; empty for all, and for prose.
    pub languages: Vec<String>,
    /// Shortest body, in characters.
    pub min_chars: usize,
    /// Longest body, in characters.
    pub max_chars: usize,
    /// What to do with a record that holds a secret or an e-mail address.
    pub secrets: SecretAction,
    /// Licences that a header, or a field of the record, may name (SPDX identifiers; `*` at the end stands for anything).
    /// Records that name none are kept.
    pub licences: Vec<String>,
    /// Records are near duplicates from this Jaccard similarity of their sets of shingles, 0 to 1.
    pub near_similarity: f64,
    /// Tokens in a shingle. Shingles do not go beyond a line.
    pub near_shingle: usize,
    /// Most memory for finding near duplicates, in MB (0.8 kB a kept record). Where it is full, the oldest are forgotten.
    pub near_memory_mb: usize,
    /// Benchmarks that must not be trained on: JSONL files (`.gz`, `.zst`) in the form of HumanEval or MBPP.
    pub against: Vec<PathBuf>,
    /// Share of a benchmark problem that a record must hold to be dropped, 0 to 1.
    pub against_share: f64,
    /// Most `fim_spans` of a record.
    pub fim_spans: usize,
    /// Run Python records that have `tests`, in the sandbox, and drop those that do not pass.
    pub execute: bool,
    /// Seconds that a run may take.
    pub execute_seconds: f64,
}

/// What to do with a record that holds a secret or an e-mail address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretAction {
    /// Put a stand-in where it was.
    #[default]
    Redact,
    /// Drop the record.
    Drop,
}

impl Default for CleanConfig {
    fn default() -> Self {
        let licences = [
            "0BSD",
            "Apache-2.0",
            "Artistic-2.0",
            "BSD-*",
            "BSL-1.0",
            "CC0-1.0",
            "HPND",
            "ISC",
            "MIT*",
            "NCSA",
            "PostgreSQL",
            "PSF-2.0",
            "Python-2.0",
            "Unicode-*",
            "Unlicense",
            "UPL-1.0",
            "WTFPL",
            "X11",
            "Zlib",
        ];
        Self {
            skip: Vec::new(),
            languages: Vec::new(),
            min_chars: 8,
            max_chars: 1_000_000,
            secrets: SecretAction::Redact,
            licences: licences.map(str::to_owned).to_vec(),
            near_similarity: 0.68,
            near_shingle: 5,
            near_memory_mb: 1500,
            against: Vec::new(),
            against_share: 0.6,
            fim_spans: 32,
            execute: false,
            execute_seconds: 10.0,
        }
    }
}

impl CleanConfig {
    /// Checks names and ranges.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        for name in &self.skip {
            if STAGES.iter().all(|stage| stage.name != name) {
                let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
                bail!("foundry.clean.skip: there is no stage {name:?}, {}", suggestion(name, &names));
            }
        }
        for name in &self.languages {
            ensure!(
                Language::from_name(name).is_some(),
                "foundry.clean.languages: {name:?} is none of {}",
                Language::ALL.map(Language::name).join(", ")
            );
        }
        ensure!(
            self.min_chars <= self.max_chars,
            "foundry.clean.min_chars is {}, it must be at most max_chars {}",
            self.min_chars,
            self.max_chars
        );
        for (key, value) in [("near_similarity", self.near_similarity), ("against_share", self.against_share)]
        {
            ensure!(
                value > 0.0 && value <= 1.0,
                "foundry.clean.{key} is {value}, it must be above 0 and at most 1"
            );
        }
        for (key, value) in [("near_shingle", self.near_shingle), ("near_memory_mb", self.near_memory_mb)] {
            ensure!(value > 0, "foundry.clean.{key} must be at least 1");
        }
        self.execute_limits().map(|_| ())
    }

    /// The same, with one stage alone, if that runs at all.
    pub fn only(&self, stage: &str) -> Self {
        let mut config = self.clone();
        let others = STAGES.iter().map(|entry| entry.name).filter(|name| *name != stage);
        config.skip.extend(others.map(str::to_owned));
        config
    }

    /// True if the stage runs.
    pub(super) fn runs(&self, stage: &str) -> bool {
        self.skip.iter().all(|name| name != stage)
    }
}
