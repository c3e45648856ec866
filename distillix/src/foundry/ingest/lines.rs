//! JSON lines.

use super::{Raw, Sink};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

/// Longer lines are left out.
const MAX_LINE: usize = 64 << 20;

/// Reads the lines of a file.
pub fn read(file: impl Read, origin: &Arc<str>, sink: Sink<'_>) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    for number in 1.. {
        let mut bytes = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        if reader
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut bytes)
            .with_context(|| format!("line {number}"))?
            == 0
        {
            break;
        }
        if bytes.len() > MAX_LINE && bytes.last() != Some(&b'\n') {
            bytes = Vec::new();
            reader.skip_until(b'\n').with_context(|| format!("line {number}"))?;
        } else if bytes.trim_ascii().is_empty() {
            continue;
        }
        sink(Raw::Line { origin: Arc::clone(origin), number, bytes })?;
    }
    Ok(())
}
