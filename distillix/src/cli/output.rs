//! Where a command's output goes.

use serde::Serialize;
use std::io::{self, Write};

/// With `--json`, JSON lines go to stdout and prose to stderr; without, prose to stdout.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether a program reads stdout.
    pub json: bool,
}

impl Output {
    /// Prints a line for people.
    pub fn prose(self, line: &str) -> io::Result<()> {
        if self.json {
            stderr(line);
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{line}").map_err(on_stdout)
    }

    /// Prints a line for programs, if one reads.
    pub fn record(self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        io::stdout().lock().write_all(&line).map_err(on_stdout)
    }
}

/// The error, with where it happened.
fn on_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to stdout: {error}"))
}

/// Prints a line on stderr. That nobody can read it is no reason to stop.
pub(super) fn stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
