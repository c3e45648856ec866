//! Where a command's output goes.

use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};

/// With `--json`, JSON lines go to stdout and prose to stderr; without, prose to stdout.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether a program reads stdout.
    pub json: bool,
}

impl Output {
    /// Prints a line for people. Much of it may be somebody else's words.
    pub fn prose(self, line: &str) -> io::Result<()> {
        self.painted(&printable(line))
    }

    /// Prints a line for people in which whatever steers the terminal is ours.
    pub fn painted(self, line: &str) -> io::Result<()> {
        let mut out: Box<dyn Write> =
            if self.json { Box::new(io::stderr().lock()) } else { Box::new(io::stdout().lock()) };
        writeln!(out, "{line}").map_err(cannot_print)
    }

    /// Prints a line for programs, if one reads.
    pub fn record(self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        io::stdout().lock().write_all(&line).map_err(cannot_print)
    }
}

/// The error, with what it kept from being done.
fn cannot_print(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot print: {error}"))
}

/// A text without what would steer a terminal.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Prints a line on stderr. That nobody can read it is no reason to stop.
pub(super) fn stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(line));
}
