//! The command line: one file a command, which reads its arguments, calls the part that does the work, and prints.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by a signal before the data was whole; `train`, which saves and goes on
//! where it was, ends with 0 then. An error is one line on stderr that starts with `error: `.

mod bench;
mod complete;
mod config;
mod device;
mod foundry;
mod inspect;
mod output;
mod progress;
mod signals;
mod threads;
mod tokenizer;
mod train;
mod verify;

use device::Compute;
pub use device::DeviceArg;
pub use output::Output;

use crate::smelter::plan::is_out_of_memory;
use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;

/// Trains tiny ternary (1.58-bit) code models by distillation, and runs them.
#[derive(Debug, Parser)]
#[command(name = "distillix", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Complete(complete::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Config(config::Args),
    #[command(subcommand)]
    Foundry(foundry::Command),
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Train(args) => train::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Complete(args) => complete::run(&args).map_err(without_gpu),
            Command::Inspect(args) => inspect::run(&args),
            Command::Config(args) => config::run(&args),
            Command::Foundry(command) => foundry::run(&command),
            Command::Tokenizer(command) => tokenizer::run(&command),
            Command::Verify(args) => verify::run(&args).map_err(without_gpu),
        }
    }
}

/// An error of the user's making: the arguments do not make sense together. Its exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUse(pub String);

impl WrongUse {
    /// The error with its causes as one of the user's making.
    fn from_error(error: anyhow::Error) -> Self {
        WrongUse(format!("{error:#}"))
    }
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    if let Some(code) = crate::foundry::sandbox::launch_if_asked() {
        return code;
    }
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// The error; if a GPU's memory ran out, with what helps.
fn without_gpu(error: anyhow::Error) -> anyhow::Error {
    match is_out_of_memory(&error) {
        true => error.context("the GPU's memory does not suffice; what helps: --device cpu"),
        false => error,
    }
}

/// Prints an error and its causes in one line, and chooses the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    let closed = |e: &(dyn std::error::Error + 'static)| matches!(e.downcast_ref::<io::Error>(), Some(e) if e.kind() == io::ErrorKind::BrokenPipe);
    // Whoever read the output has seen enough.
    if !error.chain().any(closed) {
        output::stderr(&format!("error: {}", one_line(error)));
    }
    ExitCode::from(if error.is::<WrongUse>() { 2 } else { 1 })
}

/// The error and its causes; a cause that its error tells already comes once.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let error = anyhow::Error::new(cause).context("nofile: no such file").context("verify");
        assert_eq!(one_line(&error), "verify: nofile: no such file");
    }

    #[test]
    fn wrong_use_has_its_own_exit_code() {
        let wrong = anyhow::Error::new(WrongUse("two of them".into())).context("arguments");
        assert_eq!(report(&wrong), ExitCode::from(2));
        assert_eq!(report(&anyhow::anyhow!("a\nb")), ExitCode::from(1));
    }
}
