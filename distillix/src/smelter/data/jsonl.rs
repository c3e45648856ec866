//! JSONL: one document a line, plain or compressed.

use super::code::Skip;
use super::document::{Code, Document};
use super::template::{Message, Piece, Template};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What a line may say. Other keys (where a line comes from, its licence, …) are left alone.
#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    response: Option<String>,
    /// Ranges of characters of `text`, or of `response`, that make good middles.
    #[serde(default)]
    fim_spans: Vec<(usize, usize)>,
    /// What the foundry's checks said, if they are the foundry's.
    checks: Option<Value>,
}

/// The JSONL files of a source: `path` itself, or those in that folder, by name.
///
/// # Errors
/// When the folder cannot be read or has none.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let path = entry?.path();
        if is_jsonl(&path) {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "{} has no .jsonl, .jsonl.gz or .jsonl.zst file", path.display());
    files.sort();
    Ok(files)
}

fn is_jsonl(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    [".jsonl", ".jsonl.gz", ".jsonl.zst"].iter().any(|end| name.ends_with(end)) && path.is_file()
}

/// True for a folder that holds JSONL files and nothing else, hidden entries aside.
pub fn is_folder_of_jsonl(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    let mut visible = entries
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .peekable();
    visible.peek().is_some() && visible.all(|path| is_jsonl(&path))
}

/// Opens a file, decompressing what ends in `.gz` or `.zst`.
///
/// # Errors
/// When it cannot be opened or its header is not what its name says.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let buffered = BufReader::with_capacity(1 << 18, file);
    let reader: Box<dyn Read> = match path.extension().and_then(|end| end.to_str()) {
        Some("gz") => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Some("zst") => Box::new(
            ruzstd::decoding::StreamingDecoder::new(buffered)
                .map_err(|error| anyhow!("{} is not zstd: {error}", path.display()))?,
        ),
        _ => return Ok(Box::new(buffered)),
    };
    Ok(Box::new(BufReader::with_capacity(1 << 18, reader)))
}

fn read(line: &[u8]) -> Result<Line> {
    let text = std::str::from_utf8(line)
        .map_err(|error| anyhow!("it is not valid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or(&what);
        if error.is_data() {
            anyhow!("{what} (column {})", error.column())
        } else {
            anyhow!("it is not JSON: {what} (column {})", error.column())
        }
    })
}

/// The texts of one line, whatever its form.
///
/// # Errors
/// When it is not UTF-8 or not JSON. The caller adds file and line number.
pub fn texts(line: &[u8]) -> Result<Vec<String>> {
    let Line { text, messages, prompt, response, .. } = read(line)?;
    let messages = messages.into_iter().flatten().map(|message| message.content);
    Ok([text, prompt, response].into_iter().flatten().chain(messages).collect())
}

/// Reads one line into a document; without `keep_failed`, not one that the foundry would drop.
///
/// # Errors
/// When it is not UTF-8, not JSON, or has no or several forms. The caller adds file and line number.
pub fn parse(
    line: &[u8],
    template: &Template,
    tokenizer: &Tokenizer,
    keep_failed: bool,
) -> Result<Result<Document, Skip>> {
    let mut code = None;
    let line = read(line)?;
    let dropped = line.checks.as_ref().and_then(|checks| checks.get("clean")?.get("drop"));
    if !keep_failed && dropped.is_some() {
        return Ok(Err(Skip::Failed));
    }
    let pieces = match line {
        Line { text: Some(text), messages: None, prompt: None, response: None, fim_spans, .. } => {
            let fim_spans = byte_spans("text", &text, &fim_spans)?;
            return Ok(Ok(Document::Plain { text, fim_spans }));
        }
        Line { text: None, messages: Some(messages), prompt: None, response: None, .. } => {
            ensure!(
                messages.iter().any(|message| message.role == "assistant"),
                "`messages` has no message of role \"assistant\", so there is nothing to train on"
            );
            template.render(tokenizer, &messages, false)?
        }
        Line {
            text: None,
            messages: None,
            prompt: Some(prompt),
            response: Some(response),
            fim_spans,
            ..
        } => {
            if !fim_spans.is_empty() {
                let fim_spans = byte_spans("response", &response, &fim_spans)?;
                code = Some(Code { text: response.clone(), fim_spans });
            }
            let message = |role: &str, content| Message { role: role.to_owned(), content };
            template.render(tokenizer, &[message("user", prompt), message("assistant", response)], false)?
        }
        _ => bail!("it needs either `text`, or `messages`, or `prompt` and `response`"),
    };
    Ok(Ok(Document::Answered { pieces, code }))
}

/// A document of a prompt and a response, one after the other with no template between.
pub fn answered(prompt: String, response: String) -> Document {
    Document::Answered { pieces: vec![Piece::Text(prompt, false), Piece::Text(response, true)], code: None }
}

/// Turns ranges of characters of a field into ranges of bytes.
fn byte_spans(field: &str, text: &str, spans: &[(usize, usize)]) -> Result<Vec<(usize, usize)>> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let mut offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    offsets.push(text.len());
    spans
        .iter()
        .map(|&(start, end)| match (offsets.get(start), offsets.get(end)) {
            (Some(a), Some(b)) if a < b => Ok((*a, *b)),
            _ => bail!(
                "fim_spans has [{start}, {end}], which is no range within the {} characters of `{field}`",
                offsets.len() - 1
            ),
        })
        .collect()
}
