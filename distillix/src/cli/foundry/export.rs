//! `distillix foundry export`.

use super::Output;
use super::generate::write;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes the answers that a store has into a file, at any time, beside a run too.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The store (OUTPUT.foundry).
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Write the log-probabilities too.
    #[arg(long)]
    with_logprobs: bool,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let records = write(&args.store, &args.output, args.with_logprobs)?;
    let output = Output { json: args.json };
    output.record(&json!({"records": records, "output": args.output}))?;
    output.prose(&format!("{records} records in {}", args.output.display()))?;
    Ok(ExitCode::SUCCESS)
}
