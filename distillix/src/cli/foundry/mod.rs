//! `distillix foundry`: one file a subcommand.

mod exec;

use super::{Output, WrongUse};
use anyhow::Result;
use std::process::ExitCode;

/// Makes training data: prompts, teachers that answer them, cleaning, and code that is run before it is trusted.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Exec(exec::Args),
}

pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Exec(args) => exec::run(args),
    }
}
