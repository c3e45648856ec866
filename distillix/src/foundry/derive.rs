//! From a store to a file: every answer with what the checks say of it, or only those that pass, cleaned.

use super::clean::{CleanConfig, Draft, Fault, Outcome, Pipeline, Report, Stage, Verdict};
use super::orchestrate::UNVERIFIED;
use super::output::SetWriter;
use super::record::Record;
use super::store::StoreReader;
use anyhow::Result;
use serde_json::json;
use std::path::Path;

/// What to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// How answers are checked.
    pub clean: CleanConfig,
    /// Leave out what does not pass and copies of earlier records, and write code without the chatter around it.
    pub only_clean: bool,
    /// Write log-probabilities.
    pub with_logprobs: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Derived {
    /// Records in the file. Without any, the file is left as it was before.
    pub records: u64,
    /// What the checks found.
    pub report: Report,
}

/// Records checked at a time.
const BATCH: usize = 512;
/// Stages that judge a record by those before it: they say nothing of an answer itself.
const OF_THE_SET: [&str; 2] = ["exact", "near"];

/// Writes the answers of a store, in the order of the prompts and then of the samples. The bytes depend on nothing but what is
/// stored and the options. `observe` is told how many answers were looked at.
///
/// Secrets are taken out of every answer, also of those that are written as they came, unless the options skip that stage.
///
/// # Errors
/// When the store cannot be read or the file not written.
pub fn derive(
    store: &Path,
    output: &Path,
    options: &Options,
    observe: &mut dyn FnMut(u64),
) -> Result<Derived> {
    let reader = StoreReader::open(store)?;
    let mut clean = options.clean.clone();
    if !options.only_clean {
        clean.skip.extend(OF_THE_SET.map(str::to_owned));
    }
    let mut redaction = Pipeline::new(&clean.only("secrets"))?;
    let mut pipeline = Pipeline::new(&clean)?;
    pipeline.push("tests", Box::new(Tests));
    let mut writer = SetWriter::create(output)?;
    let (mut batch, mut records, mut seen) = (Vec::new(), 0, 0);
    let mut flush = |batch: &mut Vec<Record>| -> Result<()> {
        seen += batch.len() as u64;
        let outcomes = if options.only_clean {
            pipeline.clean(std::mem::take(batch)).into_iter().filter_map(kept).collect::<Vec<_>>()
        } else {
            let redacted = redaction.clean(std::mem::take(batch));
            let records: Vec<Record> = redacted.iter().map(|outcome| outcome.record().clone()).collect();
            let outcomes = pipeline.clean(records);
            let outcomes = redacted.into_iter().zip(outcomes).map(|(redacted, outcome)| match redacted {
                Outcome::Kept(record) => noted(record, outcome),
                // The secret is gone by now, so the others no longer see it.
                Outcome::Dropped(_) => noted(redacted.record().clone(), redacted),
            });
            outcomes.collect()
        };
        pipeline.check_stages()?;
        observe(seen);
        for record in outcomes {
            records += 1;
            writer.write(&record)?;
        }
        Ok(())
    };
    reader.records(options.with_logprobs, |record| {
        batch.push(record);
        if batch.len() >= BATCH { flush(&mut batch) } else { Ok(()) }
    })?;
    flush(&mut batch)?;
    if records > 0 {
        writer.finish()?;
    }
    Ok(Derived { records, report: pipeline.report() })
}

fn kept(outcome: Outcome) -> Option<Record> {
    match outcome {
        Outcome::Kept(record) => Some(record),
        Outcome::Dropped(_) => None,
    }
}

/// The record as it came, with what the checks say.
fn noted(mut record: Record, outcome: Outcome) -> Record {
    match outcome {
        Outcome::Kept(cleaned) => {
            record.language = record.language.or(cleaned.language);
            record.checks.extend(cleaned.checks);
            record.checks.insert("clean".to_owned(), json!("keep"));
        }
        Outcome::Dropped(dropped) => {
            record.language = record.language.or(dropped.record.language);
            record
                .checks
                .insert("clean".to_owned(), json!({"drop": dropped.stage, "reason": dropped.reason}));
        }
    }
    record
}

/// Drops what failed its tests.
struct Tests;

impl Stage for Tests {
    fn check(&self, draft: &mut Draft) -> Verdict {
        match draft.record().checks.get("tests").and_then(serde_json::Value::as_str) {
            // What could not be run is no worse than what has no tests.
            None | Some("pass" | UNVERIFIED) => Ok(()),
            Some("timeout") => Err(Fault::new("its tests ran out of time")),
            Some(_) => Err(Fault::new("it does not pass its tests")),
        }
    }
}
