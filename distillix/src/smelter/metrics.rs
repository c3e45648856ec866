//! `metrics.jsonl`: one line every few steps.

use super::health::LayerHealth;
use super::trainer::StepReport;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line: what happened up to a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Mean of the minimised loss since the last line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// Mean cross-entropy, nats a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cross_entropy: Option<f64>,
    /// Mean of the teacher's term, unweighted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub distillation: Option<f64>,
    /// Mean of the attention-relation term.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relation: Option<f64>,
    /// Norm of the last step's gradients before clipping.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Factor of the learning rates at the last step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr_factor: Option<f64>,
    /// Tokens read a second since the last line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_second: Option<f64>,
    /// Steps skipped so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped: Option<u64>,
    /// State of the ternary layers.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub health: Vec<LayerHealth>,
    /// Validation, where there was one at this step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation: Option<Validation>,
    /// A warning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warning: Option<String>,
}

/// Results on the held-out part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Cross-entropy, nats a token.
    pub loss: f64,
    /// Bits a byte of text.
    pub bits_per_byte: f64,
    /// Share of held-out functions whose greedy body is right, for built-in data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exact_match: Option<f64>,
    /// The same among the half that are compositions never trained on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exact_match_unseen: Option<f64>,
}

/// Means of the steps since the last line.
#[derive(Debug, Default)]
pub struct Window {
    steps: f64,
    sums: [f64; 4],
    tokens: usize,
    last: Option<StepReport>,
}

impl Window {
    /// Adds a step.
    pub fn push(&mut self, report: &StepReport) {
        self.tokens += report.tokens;
        if report.skipped.is_none() {
            self.steps += 1.0;
            let terms = [
                report.loss,
                report.cross_entropy,
                report.distillation.unwrap_or(0.0),
                report.relation.unwrap_or(0.0),
            ];
            for (sum, term) in self.sums.iter_mut().zip(terms) {
                *sum += term;
            }
        }
        self.last = Some(report.clone());
    }

    /// The line of the steps so far, and begins anew. `None` if there were none.
    pub fn line(&mut self, seconds: f64, skipped: u64, health: Vec<LayerHealth>) -> Option<Line> {
        let Window { steps, sums, tokens, last } = std::mem::take(self);
        let last = last?;
        let mean = |i: usize| (steps > 0.0).then(|| sums[i] / steps);
        Some(Line {
            step: last.step,
            loss: mean(0),
            cross_entropy: mean(1),
            distillation: last.distillation.and(mean(2)),
            relation: last.relation.and(mean(3)),
            grad_norm: Some(last.grad_norm).filter(|norm| norm.is_finite()),
            lr_factor: Some(last.lr_factor),
            tokens_per_second: (seconds > 0.0).then(|| tokens as f64 / seconds),
            skipped: Some(skipped),
            health,
            validation: None,
            warning: None,
        })
    }
}

/// Appends lines to the file, each whole before the next begins.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file and cuts it back to the lines up to `step`, so that a resumed run tells each step once.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let context = || format!("cannot write {}", path.display());
        let old = match std::fs::read(path) {
            Ok(old) => old,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut kept = Vec::with_capacity(old.len());
        for line in old.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            if serde_json::from_slice::<Line>(line).is_ok_and(|line| line.step <= step) {
                kept.extend_from_slice(line);
            }
        }
        if kept != old {
            super::run_folder::write_whole(path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(context)?;
        Ok(Metrics { path: path.to_owned(), file })
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Flushes the lines to the disk, so that a checkpoint never outlives the lines of its steps.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_file_has_each_step_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        let line = |step| Line { step, ..Line::default() };
        let mut metrics = Metrics::open(&path, 0)?;
        for step in [10, 20, 30] {
            metrics.write(&line(step))?;
        }
        drop(metrics);
        // A line cut off by a crash goes too.
        std::fs::OpenOptions::new().append(true).open(&path)?.write_all(b"{\"step\": 4")?;
        let mut metrics = Metrics::open(&path, 20)?;
        metrics.write(&line(30))?;
        let steps: Vec<u64> = std::fs::read_to_string(&path)?
            .lines()
            .map(|line| serde_json::from_str::<Line>(line).map(|line| line.step))
            .collect::<Result<_, _>>()?;
        assert_eq!(steps, [10, 20, 30]);
        Ok(())
    }
}
