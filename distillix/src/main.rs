//! The `distillix` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    distillix::cli::main()
}
