//! `distillix foundry status`.

use super::display::table;
use super::{Output, store_of};
use crate::foundry::store::StoreReader;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows how far a set is: done, failed by reason, spent, left. Works beside a run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The store, or the output that it belongs to.
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let status = StoreReader::open(&store_of(&args.store))?.status()?;
    let output = Output { json: args.json };
    let (spent, assumed) = status.spent();
    output.record(&json!({"status": status, "left": status.left(), "spent": spent, "assumed": assumed}))?;
    output.prose(&format!(
        "{} answers wanted: {} done, {} failed, {} left",
        status.wanted,
        status.done,
        status.failed,
        status.left()
    ))?;
    table(output, &status)?;
    Ok(ExitCode::SUCCESS)
}
