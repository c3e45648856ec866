//! Texts of files as they are, for training a tokenizer.

use super::config::{SourceConfig, SourceKind};
use super::{code, jsonl};
use anyhow::{Context, Result, anyhow};
use std::io::BufRead;
use std::path::Path;

/// Hands every text of `path` to `each`, with the number of bytes read for it: the texts of a JSONL file's lines
/// (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`), the files of a folder of code, or the lines of any other file.
///
/// # Errors
/// When a file cannot be read, or a line is malformed (with file and line number); and those of `each`.
pub fn for_each_text(path: &Path, mut each: impl FnMut(String, u64) -> Result<()>) -> Result<()> {
    let source = SourceConfig::path(path);
    if source.resolved_kind() == SourceKind::Code {
        for file in code::files(&source)? {
            let file = file?;
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let read = bytes.len() as u64;
            if let Ok(text) = code::check(bytes, &source) {
                each(text, read)?;
            }
        }
        return Ok(());
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_jsonl = [".jsonl", ".jsonl.gz", ".jsonl.zst"].iter().any(|end| name.ends_with(end));
    let mut reader = jsonl::open(path)?;
    for number in 1u64.. {
        let mut line = Vec::new();
        let place = || format!("{}:{number}", path.display());
        let read = reader.read_until(b'\n', &mut line).with_context(place)? as u64;
        if read == 0 {
            break;
        }
        if !is_jsonl {
            let text = String::from_utf8(line)
                .map_err(|error| {
                    anyhow!("it is not valid UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1)
                })
                .with_context(place)?;
            each(text, read)?;
        } else if !line.trim_ascii().is_empty() {
            for (i, text) in jsonl::texts(&line).with_context(place)?.into_iter().enumerate() {
                each(text, if i == 0 { read } else { 0 })?;
            }
        }
    }
    Ok(())
}
