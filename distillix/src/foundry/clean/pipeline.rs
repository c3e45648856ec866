//! Records through the stages, in batches.

use super::report::{Report, StageReport};
use super::{CleanConfig, Draft, Fault, STAGES, Stage};
use crate::foundry::record::Record;
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde::Serialize;

/// The stages that a config asks for, and what they have found so far.
pub struct Pipeline {
    stages: Vec<Box<dyn Stage>>,
    reports: Vec<StageReport>,
    records: u64,
    kept: u64,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It passed, perhaps changed.
    Kept(Record),
    /// It did not pass.
    Dropped(Dropped),
}

/// A record that did not pass, as it was when it was dropped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// The stage that dropped it.
    pub stage: &'static str,
    /// The kind of fault.
    pub reason: &'static str,
    /// What exactly, or where; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The record.
    pub record: Record,
}

impl Outcome {
    /// The record, whether it passed or not.
    pub fn record(&self) -> &Record {
        match self {
            Outcome::Kept(record) => record,
            Outcome::Dropped(dropped) => &dropped.record,
        }
    }
}

/// A record between check and settling.
struct Checked {
    draft: Draft,
    /// A bit for each stage that changed the record.
    changed: u64,
    /// The stage that dropped it.
    fault: Option<(usize, Fault)>,
}

impl Pipeline {
    /// The stages of `config`.
    ///
    /// # Errors
    /// When the config is not valid, or a benchmark that it names cannot be read.
    pub fn new(config: &CleanConfig) -> Result<Self> {
        config.validate()?;
        let mut pipeline = Self { stages: Vec::new(), reports: Vec::new(), records: 0, kept: 0 };
        for entry in STAGES.iter().filter(|entry| config.runs(entry.name)) {
            let stage = (entry.make)(config).with_context(|| format!("the cleaning stage {}", entry.name))?;
            if let Some(stage) = stage {
                pipeline.push(entry.name, stage);
            }
        }
        Ok(pipeline)
    }

    /// Adds a stage that no config can make, after the others.
    pub fn push(&mut self, name: &'static str, stage: Box<dyn Stage>) {
        self.stages.push(stage);
        self.reports.push(StageReport::new(name));
    }

    /// Cleans a batch. Outcomes are in the order of the records.
    pub fn clean(&mut self, records: Vec<Record>) -> Vec<Outcome> {
        let stages = &self.stages;
        let checked: Vec<Checked> = records.into_par_iter().map(|record| check(stages, record)).collect();
        checked.into_iter().map(|checked| self.settle(checked)).collect()
    }

    /// Cleans one record.
    pub fn clean_one(&mut self, record: Record) -> Outcome {
        let checked = check(&self.stages, record);
        self.settle(checked)
    }

    fn settle(&mut self, checked: Checked) -> Outcome {
        let Checked { draft, changed, mut fault } = checked;
        self.records += 1;
        if fault.is_none() {
            let verdicts = self.stages.iter_mut().map(|stage| stage.settle(&draft)).enumerate();
            fault = verdicts.filter_map(|(at, verdict)| Some((at, verdict.err()?))).next();
        }
        let reached = fault.as_ref().map_or(self.stages.len(), |(at, _)| at + 1);
        for (at, report) in self.reports[..reached].iter_mut().enumerate() {
            report.seen += 1;
            report.changed += changed >> at & 1;
        }
        let record = draft.into_record();
        let Some((at, Fault { reason, detail })) = fault else {
            self.kept += 1;
            return Outcome::Kept(record);
        };
        self.reports[at].count(reason, &detail, &record);
        Outcome::Dropped(Dropped { stage: self.reports[at].stage, reason, detail, record })
    }

    /// Whether all stages still judge. Ask after each batch: where one does not, what was said of the batch is void.
    ///
    /// # Errors
    /// Which stage does not, and why.
    pub fn check_stages(&self) -> Result<()> {
        for (stage, report) in self.stages.iter().zip(&self.reports) {
            if let Some(why) = stage.broken() {
                bail!("the cleaning stage {} cannot go on: {why}", report.stage);
            }
        }
        Ok(())
    }

    /// What the stages did so far.
    pub fn report(&self) -> Report {
        let with_remark = self.reports.iter().zip(&self.stages);
        let stages = with_remark
            .map(|(report, stage)| StageReport { remark: stage.remark(), ..report.clone() })
            .collect();
        Report { records: self.records, kept: self.kept, stages }
    }
}

fn check(stages: &[Box<dyn Stage>], record: Record) -> Checked {
    let mut draft = Draft::new(record);
    let mut changed = 0;
    for (at, stage) in stages.iter().enumerate() {
        draft.changed = false;
        if let Err(fault) = stage.check(&mut draft) {
            return Checked { draft, changed, fault: Some((at, fault)) };
        }
        changed |= u64::from(draft.changed) << at;
    }
    Checked { draft, changed, fault: None }
}
