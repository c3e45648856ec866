//! `distillix foundry export`.

use super::display::cleaning;
use super::{ConfigArgs, Output, store_of, wrong};
use crate::cli::progress::Progress;
use crate::foundry::derive::{self, derive};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes the answers that a store has into a file, at any time, beside a run too.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The store, or the output that it belongs to.
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Write only answers that pass the checks, with their code alone.
    #[arg(long)]
    clean: bool,
    /// Write the log-probabilities too.
    #[arg(long)]
    with_logprobs: bool,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let clean = args.config.foundry()?.clean;
    clean.validate().map_err(wrong)?;
    let options = derive::Options { clean, only_clean: args.clean, with_logprobs: args.with_logprobs };
    let mut progress = Progress::new("checking answers", None);
    let derived = derive(&store_of(&args.store), &args.output, &options, &mut |seen| progress.at(seen))?;
    progress.finish();
    let output = Output { json: args.json };
    output.record(&json!({"records": derived.records, "output": args.output, "clean": derived.report}))?;
    cleaning(output, &derived, args.clean)?;
    ensure!(derived.records > 0, "there is no record to write, so {} is as it was", args.output.display());
    output.prose(&format!("{} records in {}", derived.records, args.output.display()))?;
    Ok(ExitCode::SUCCESS)
}
