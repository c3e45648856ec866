//! Problems of benchmarks, which must not be trained on.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::benchmark::Benchmark;
use crate::smelter::data::open_lines;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::BufRead;
use std::path::Path;

/// Drops records that hold a problem of a benchmark, or its solution.
pub struct Contamination {
    benchmark: Benchmark,
    share: f64,
}

impl Contamination {
    /// The stage for a config; `None` if it names no benchmark.
    ///
    /// # Errors
    /// When a benchmark cannot be read, or has no problem.
    pub fn new(config: &CleanConfig) -> Result<Option<Self>> {
        if config.against.is_empty() {
            return Ok(None);
        }
        let mut benchmark = Benchmark::default();
        for path in &config.against {
            add(&mut benchmark, path)?;
        }
        Ok(Some(Self { benchmark, share: config.against_share }))
    }
}

fn add(benchmark: &mut Benchmark, path: &Path) -> Result<()> {
    let before = benchmark.len();
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = file.split('.').next().unwrap_or_default();
    for (number, line) in (1..).zip(open_lines(path)?.lines()) {
        let place = || format!("{}:{number}", path.display());
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).with_context(place)?;
        let fields = value.as_object().with_context(|| format!("{}: it is no JSON object", place()))?;
        benchmark.add(file, fields).map_err(anyhow::Error::msg).with_context(place)?;
    }
    ensure!(benchmark.len() > before, "{} has no problem", path.display());
    Ok(())
}

impl Stage for Contamination {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let texts: Vec<&str> = draft.record().texts().collect();
        match self.benchmark.find(&texts.join("\n"), self.share) {
            None => Ok(()),
            Some(hit) => {
                let detail = format!("{}: {:.0}% of its {}", hit.problem, 100.0 * hit.share, hit.what);
                Err(Fault::with("benchmark problem", detail))
            }
        }
    }

    fn remark(&self) -> Option<String> {
        Some(format!("compared with {} problems", self.benchmark.len()))
    }
}
