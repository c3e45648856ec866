//! `distillix foundry clean`.

use super::super::{Output, WrongUse, output::stderr, progress::Progress, signals, threads};
use super::wrong;
use crate::foundry::clean::{CleanConfig, Cleaned, Job, Pipeline, Report, STAGES, clean_files};
use crate::smelter::config::Config;
use anyhow::{Result, bail};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Cleans existing data, and makes one file of it that can be trained on.
///
/// Reads JSONL (also .gz, .zst), Parquet, files and folders of code (.gitignore is respected), and tar archives. Each record passes the
/// stages one after the other; --stages lists them. The output appears once it is whole. Ctrl-C keeps what is done so far aside.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix foundry clean ~/code --output train.jsonl.zst
  distillix foundry clean set/*.parquet --output set.jsonl --against HumanEval.jsonl.gz --dropped dropped.jsonl
  distillix foundry clean answers.jsonl --output good.jsonl --language python --skip near --json")]
pub(in crate::cli) struct Args {
    /// Files and folders to read.
    #[arg(value_name = "IN", required_unless_present = "stages")]
    inputs: Vec<PathBuf>,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
    #[arg(long, short, value_name = "OUT", required_unless_present = "stages")]
    output: Option<PathBuf>,
    /// Drop what holds a problem of this benchmark: JSONL in the form of HumanEval or MBPP. Repeatable.
    #[arg(long, value_name = "BENCH", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Write what is dropped to this file, with the reasons.
    #[arg(long, value_name = "FILE")]
    dropped: Option<PathBuf>,
    /// Leave out this stage. Repeatable.
    #[arg(long, value_name = "STAGE")]
    skip: Vec<String>,
    /// Keep this language only. Repeatable.
    #[arg(long = "language", value_name = "NAME")]
    languages: Vec<String>,
    /// Run Python records that have `tests`, in a sandbox, and drop those that do not pass.
    #[arg(long)]
    execute: bool,
    /// A JSON file with keys to change, in the section foundry.clean (`distillix config` prints all).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change one key of the config, as in foundry.clean.min_chars=20. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// List the stages and end.
    #[arg(long)]
    stages: bool,
    /// Threads to use; the result does not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print the report as one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn config(&self) -> Result<CleanConfig> {
        let mut config = Config::default();
        if let Some(path) = &self.config {
            config = config.with_file(path)?;
        }
        for setting in &self.settings {
            config = config.with_setting(setting)?;
        }
        let mut config = config.foundry.clean;
        config.against.extend_from_slice(&self.against);
        config.skip.extend_from_slice(&self.skip);
        config.languages.extend_from_slice(&self.languages);
        config.execute |= self.execute;
        config.validate()?;
        Ok(config)
    }
}

#[derive(Serialize)]
struct Record<'a> {
    output: &'a Path,
    bytes: u64,
    #[serde(flatten)]
    report: &'a Report,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let output = Output { json: args.json };
    if args.stages {
        for stage in STAGES {
            output.prose(&format!("{:<14} {}", stage.name, stage.about))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    threads::set(args.threads)?;
    let config = args.config().map_err(wrong)?;
    let path = args.output.clone().ok_or_else(|| WrongUse("--output is missing".into()))?;
    let job = Job { inputs: args.inputs.clone(), output: path, dropped: args.dropped.clone() };
    job.check().map_err(wrong)?;
    let mut pipeline = Pipeline::new(&config)?;
    let stop = signals::stop_flag()?;
    let mut bar = None;
    let mut told = false;
    let cleaned = clean_files(&job, &mut pipeline, &stop, |progress| {
        bar.get_or_insert_with(|| Progress::new("cleaning", progress.total)).at(progress.bytes);
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            stderr("stopping …");
        }
    });
    drop(bar);
    let Cleaned { report, bytes, stopped } = cleaned?;
    output.record(&Record { output: &job.output, bytes, report: &report })?;
    print(output, &report)?;
    if let Some(partial) = stopped {
        output.prose(&format!("stopped before the end; the records so far are in {}", partial.display()))?;
        return Ok(ExitCode::from(signals::STOPPED));
    }
    if report.kept == 0 {
        bail!(
            "no record is left, so nothing was written: `--dropped FILE` shows why, `--skip STAGE` leaves a stage out"
        );
    }
    output.prose(&format!(
        "{}: {} records, {:.1} MB",
        job.output.display(),
        report.kept,
        bytes as f64 / 1e6
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn print(output: Output, report: &Report) -> Result<()> {
    output.prose(&format!("{:<14} {:>10} {:>10} {:>10}  why", "stage", "records", "changed", "dropped"))?;
    for stage in &report.stages {
        let reasons: Vec<String> = stage.reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
        let line = format!(
            "{:<14} {:>10} {:>10} {:>10}  {}",
            stage.stage,
            stage.seen,
            stage.changed,
            stage.dropped,
            reasons.join(", ")
        );
        output.prose(line.trim_end())?;
        if let Some(remark) = &stage.remark {
            output.prose(&format!("  {remark}"))?;
        }
        for example in &stage.examples {
            let detail =
                if example.detail.is_empty() { String::new() } else { format!(" ({})", example.detail) };
            output.prose(&format!("  {}: {}{detail}", example.id, example.reason))?;
        }
    }
    Ok(output.prose(&format!("{} of {} records are kept", report.kept, report.records))?)
}
