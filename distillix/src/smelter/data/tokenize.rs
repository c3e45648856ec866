//! From the files of a source to a shard: in parallel, in order, with bounded memory.

use super::code::{self, Skip};
use super::config::{SourceConfig, SourceKind};
use super::document::{Document, Encoding, Sequence};
use super::jsonl;
use super::shard::{Meta, ShardWriter};
use super::template::{Piece, Template};
use anyhow::{Context, Result};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Documents are read and encoded in batches of about this many bytes, so memory does not grow with the corpus.
const BATCH_BYTES: u64 = 8 << 20;
/// And of at most this many documents.
const BATCH_DOCUMENTS: usize = 16_384;

/// How far a long read has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The source.
    pub source: String,
    /// What is done with it: `reading` to know its content, or `tokenizing`.
    pub stage: &'static str,
    /// Bytes of its files that are done.
    pub done: u64,
    /// Bytes of all its files.
    pub total: u64,
}

/// Called now and then while a source is read or tokenized.
pub type OnProgress<'a> = &'a (dyn Fn(&Progress) + Sync);

/// The state of a source's files, by path, size and time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Equal if nothing changed.
    pub hash: blake3::Hash,
    /// Bytes of all files.
    pub bytes: u64,
}

fn files(source: &SourceConfig) -> Result<Box<dyn Iterator<Item = Result<PathBuf>>>> {
    match source.resolved_kind() {
        SourceKind::Code => Ok(Box::new(code::files(source)?)),
        _ => Ok(Box::new(jsonl::files(source.required_path()?)?.into_iter().map(Ok))),
    }
}

/// Looks at the files of a source without reading them.
///
/// # Errors
/// When a file or folder cannot be read.
pub fn fingerprint(source: &SourceConfig) -> Result<Fingerprint> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    for path in files(source)? {
        let path = path?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let meta = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let time = meta.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let name = path.as_os_str().as_encoded_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        hasher.update(&meta.len().to_le_bytes());
        hasher.update(&time.map_or(0, |time| time.as_nanos()).to_le_bytes());
        bytes += meta.len();
    }
    Ok(Fingerprint { hash: hasher.finalize(), bytes })
}

/// Hashes the content of the files of a source, `total` bytes, in order.
///
/// # Errors
/// When a file or folder cannot be read.
pub fn content_hash(source: &SourceConfig, total: u64, on_progress: OnProgress) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let done = AtomicU64::new(0);
    let mut paths = files(source)?;
    loop {
        let batch: Vec<PathBuf> = paths.by_ref().take(256).collect::<Result<_>>()?;
        if batch.is_empty() {
            return Ok(hasher.finalize());
        }
        let hashes: Vec<blake3::Hash> = batch
            .par_iter()
            .map(|path| {
                let mut hasher = blake3::Hasher::new();
                let mut told = |bytes: usize| {
                    let done = done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
                    on_progress(&Progress {
                        source: source.name(),
                        stage: "reading",
                        done: done.min(total),
                        total,
                    });
                };
                let read = std::fs::File::open(path).and_then(|file| update(&mut hasher, file, &mut told));
                read.with_context(|| format!("cannot read {}", path.display()))?;
                Ok(hasher.finalize())
            })
            .collect::<Result<_>>()?;
        for hash in hashes {
            hasher.update(hash.as_bytes());
        }
    }
}

/// Adds what `file` holds; `told` hears of every few megabytes.
fn update(hasher: &mut blake3::Hasher, file: File, told: &mut impl FnMut(usize)) -> std::io::Result<()> {
    let mut part = file.take(HASHED_AT_ONCE);
    loop {
        let before = hasher.count();
        hasher.update_reader(&mut part)?;
        let bytes = hasher.count() - before;
        told(bytes as usize);
        if bytes < HASHED_AT_ONCE {
            return Ok(());
        }
        part.set_limit(HASHED_AT_ONCE);
    }
}

/// Bytes between two reports of progress.
const HASHED_AT_ONCE: u64 = 4 << 20;

/// One document, not yet looked into.
enum Input {
    Line { file: Arc<Path>, number: u64, bytes: Vec<u8> },
    File { path: PathBuf, bytes: u64 },
}

/// Reads all inputs of a source and hands them to `consume` in batches; the second argument is the number of file
/// bytes that the batch stands for.
fn batches(source: &SourceConfig, mut consume: impl FnMut(Vec<Input>, u64) -> Result<()>) -> Result<()> {
    let (mut batch, mut held) = (Vec::new(), 0);
    let lines = source.resolved_kind() == SourceKind::Jsonl;
    for path in files(source)? {
        let path = path?;
        if !lines {
            let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            batch.push(Input::File { path, bytes });
            held += bytes;
            if held >= BATCH_BYTES || batch.len() >= BATCH_DOCUMENTS {
                consume(std::mem::take(&mut batch), std::mem::take(&mut held))?;
            }
            continue;
        }
        let mut reader = jsonl::open(&path)?;
        let file: Arc<Path> = path.into();
        for number in 1.. {
            let mut bytes = Vec::new();
            let read = reader.read_until(b'\n', &mut bytes);
            if read.with_context(|| format!("cannot read {} at line {number}", file.display()))? == 0 {
                break;
            }
            held += bytes.len() as u64;
            if !bytes.trim_ascii().is_empty() {
                batch.push(Input::Line { file: file.clone(), number, bytes });
            }
            if held >= BATCH_BYTES || batch.len() >= BATCH_DOCUMENTS {
                consume(std::mem::take(&mut batch), std::mem::take(&mut held))?;
            }
        }
    }
    if batch.is_empty() { Ok(()) } else { consume(batch, held) }
}

struct Encoded {
    hash: u64,
    text_bytes: u64,
    sequences: Vec<Sequence>,
}

impl Input {
    fn encode(
        self,
        source: &SourceConfig,
        template: &Template,
        encoding: &Encoding,
    ) -> Result<Result<Encoded, Skip>> {
        let (document, place) = match self {
            Self::Line { file, number, bytes } => {
                let place = format!("{}:{number}", file.display());
                let document = jsonl::parse(&bytes, template, encoding.tokenizer, source.keep_failed);
                match document.with_context(|| place.clone())? {
                    Ok(document) => (document, place),
                    Err(skip) => return Ok(Err(skip)),
                }
            }
            Self::File { bytes, .. } if bytes < source.min_file_bytes || bytes > source.max_file_bytes => {
                return Ok(Err(Skip::Size));
            }
            Self::File { path, .. } => {
                let place = path.display().to_string();
                let bytes = std::fs::read(&path).with_context(|| format!("cannot read {place}"))?;
                match code::check(bytes, source) {
                    Ok(text) => (Document::Plain { text, fim_spans: Vec::new() }, place),
                    Err(skip) => return Ok(Err(skip)),
                }
            }
        };
        if document.is_empty() {
            return Ok(Err(Skip::Empty));
        }
        let text_bytes = match &document {
            Document::Plain { text, .. } => text.len(),
            Document::Answered { pieces, .. } => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text, _) => text.len(),
                    Piece::Token(..) => 0,
                })
                .sum(),
        };
        let sequences = encoding.encode(&document).context(place)?;
        Ok(Ok(Encoded { hash: document.hash(), text_bytes: text_bytes as u64, sequences }))
    }
}

/// Tokenizes a source into `folder`.
///
/// # Errors
/// When a file cannot be read or written, a line is malformed (with file and line number), or no document is left.
pub fn tokenize(
    source: &SourceConfig,
    template: &Template,
    encoding: &Encoding,
    folder: &Path,
    total: u64,
    on_progress: OnProgress,
) -> Result<Meta> {
    let answered = source.resolved_kind() == SourceKind::Jsonl;
    let mut writer = ShardWriter::create(folder, encoding.tokenizer.len(), answered)?;
    let mut skipped = [0; Skip::ALL.len()];
    let mut progress = Progress { source: source.name(), stage: "tokenizing", done: 0, total };
    batches(source, |batch, bytes| {
        // Collected in order, so a shard does not depend on the number of threads; the first error is the one reported.
        let encoded: Vec<_> =
            batch.into_par_iter().map(|input| input.encode(source, template, encoding)).collect();
        for document in encoded {
            match document? {
                Ok(Encoded { hash, text_bytes, sequences }) => {
                    writer.push(hash, encoding.is_validation(hash), text_bytes, &sequences)?;
                }
                Err(skip) => skipped[skip.index()] += 1,
            }
        }
        // Compressed files give more bytes than they have.
        progress.done = (progress.done + bytes).min(total);
        on_progress(&progress);
        Ok(())
    })?;
    let skipped: Vec<(String, u64)> = Skip::ALL
        .iter()
        .zip(skipped)
        .filter(|(_, n)| *n > 0)
        .map(|((why, _), n)| ((*why).to_owned(), n))
        .collect();
    let left_out: Vec<String> = skipped.iter().map(|(why, n)| format!("{n} {why}")).collect();
    let reasons = if left_out.is_empty() { "none was found".to_owned() } else { left_out.join(", ") };
    writer
        .finish(skipped, |hash| encoding.is_validation(hash), encoding.validation_fraction > 0.0)
        .with_context(|| {
            format!("{} cannot be trained on (files or lines left out: {reasons})", source.name())
        })
}
