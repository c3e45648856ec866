//! Existing data as records: JSONL, Parquet, code in files, folders, git checkouts and tar archives.
//!
//! Everything is read as a stream. What holds a record is handed on raw ([`Raw`]), so that the work of making records of it can
//! be shared among threads.

mod archive;
mod fields;
mod lines;
mod parquet;
mod raw;

pub(in crate::foundry) use fields::normalize_tests;
pub use raw::{Raw, Unreadable};

use crate::foundry::language::Language;
use crate::smelter::data::language_of_file;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files of code above this size are not read.
const MAX_FILE: u64 = 16 << 20;

/// What is read: files and folders, in the order given.
pub struct Source {
    paths: Vec<PathBuf>,
    /// Left out where a folder holds them.
    except: Vec<PathBuf>,
    read: Arc<AtomicU64>,
}

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lines(Packing),
    Parquet,
    Tar(Packing),
    Code,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, packing) =
            match (name.strip_suffix(".gz"), name.strip_suffix(".zst"), name.strip_suffix(".tgz")) {
                (Some(rest), _, _) => (rest.to_owned(), Packing::Gzip),
                (_, Some(rest), _) => (rest.to_owned(), Packing::Zstd),
                (_, _, Some(rest)) => (format!("{rest}.tar"), Packing::Gzip),
                _ => (name, Packing::None),
            };
        let ends = |end: &str| name.ends_with(end);
        if ends(".jsonl") || ends(".ndjson") {
            Some(Self::Lines(packing))
        } else if ends(".tar") {
            Some(Self::Tar(packing))
        } else if packing != Packing::None {
            None
        } else if ends(".parquet") {
            Some(Self::Parquet)
        } else {
            language_of(path).is_some().then_some(Self::Code)
        }
    }
}

/// The name of the language of a file of code, by its extension.
fn language_of(path: &Path) -> Option<&'static str> {
    Language::from_path(path).map(Language::name).or_else(|| language_of_file(path))
}

/// Takes what was read; an error of its ends the reading.
pub type Sink<'a> = &'a mut dyn FnMut(Raw) -> Result<()>;

impl Source {
    /// Files and folders to read. `except` are left out where a folder holds them: the files that are being made.
    ///
    /// # Errors
    /// When one is not there, or of a form that is not known.
    pub fn new(paths: &[PathBuf], except: &[&Path]) -> Result<Self> {
        for path in paths {
            let meta = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                meta.is_dir() || Kind::of(path).is_some(),
                "{} is of no form that is known: .jsonl, .ndjson (also .gz, .zst), .parquet, .tar (also .gz, .zst), a file of \
                 code, or a folder of these",
                path.display()
            );
        }
        let except = except.iter().filter_map(|path| path.canonicalize().ok()).collect();
        Ok(Self { paths: paths.to_vec(), except, read: Arc::default() })
    }

    /// Bytes of files that have been read, a counter that other threads may look at.
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Bytes of all files, or `None` if a folder is among them.
    pub fn total(&self) -> Option<u64> {
        let sizes = self
            .paths
            .iter()
            .map(|path| path.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len()));
        sizes.sum()
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When a file cannot be read to its end, with its name; and those of `sink`.
    pub fn read(&self, sink: Sink<'_>) -> Result<()> {
        for path in &self.paths {
            if path.is_dir() {
                self.read_folder(path, sink)?;
            } else {
                self.read_file(path, path, sink)?;
            }
        }
        Ok(())
    }

    /// Files in order of their paths, without what `.gitignore` and `.ignore` files and hidden names leave out.
    fn read_folder(&self, root: &Path, sink: Sink<'_>) -> Result<()> {
        let walk = ignore::WalkBuilder::new(root)
            .parents(false)
            .git_global(false)
            .require_git(false)
            .sort_by_file_name(|a, b| a.cmp(b))
            .build();
        for entry in walk {
            let entry = entry.with_context(|| format!("cannot read the folder {}", root.display()))?;
            let path = entry.path();
            let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
            if !is_file || Kind::of(path).is_none() {
                continue;
            }
            if !self.except.is_empty() && path.canonicalize().is_ok_and(|path| self.except.contains(&path)) {
                continue;
            }
            // One file of many that is broken is no reason to stop; that the sink wants no more is.
            let mut refused = None;
            let read = self.read_file(path, path.strip_prefix(root).unwrap_or(path), &mut |raw| {
                sink(raw).map_err(|error| {
                    let text = error.to_string();
                    refused = Some(error);
                    anyhow::anyhow!(text)
                })
            });
            match (refused, read) {
                (Some(error), _) => return Err(error),
                (None, Err(error)) => {
                    sink(Raw::Broken {
                        origin: path.display().to_string().into(),
                        error: format!("{error:#}"),
                    })?;
                }
                (None, Ok(())) => {}
            }
        }
        Ok(())
    }

    /// Reads a file; code in it is called `name`.
    fn read_file(&self, path: &Path, name: &Path, sink: Sink<'_>) -> Result<()> {
        let origin: Arc<str> = path.display().to_string().into();
        let mut work = || {
            let file = File::open(path)?;
            match Kind::of(path) {
                Some(Kind::Lines(packing)) => lines::read(self.unpack(file, packing)?, &origin, sink),
                Some(Kind::Tar(packing)) => archive::read(self.unpack(file, packing)?, &origin, sink),
                Some(Kind::Parquet) => parquet::read(file, &origin, &self.read, sink),
                Some(Kind::Code) => {
                    let size = file.metadata()?.len();
                    let raw = code(self.counted(file), size, &name.to_string_lossy(), &origin)?;
                    sink(raw)
                }
                None => bail!("it is of no form that is known"),
            }
        };
        let work: Result<()> = work();
        work.with_context(|| format!("cannot read {}", path.display()))
    }

    fn counted(&self, file: File) -> Counted {
        Counted { file, read: Arc::clone(&self.read) }
    }

    fn unpack(&self, file: File, packing: Packing) -> Result<Box<dyn Read>> {
        let buffered = BufReader::with_capacity(1 << 18, self.counted(file));
        Ok(match packing {
            Packing::None => Box::new(buffered),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered)?),
        })
    }
}

/// A file of code, not yet looked into.
fn code(file: impl Read, size: u64, name: &str, origin: &str) -> Result<Raw> {
    let mut bytes = Vec::new();
    if size <= MAX_FILE {
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
    }
    let language = language_of(Path::new(name));
    Ok(Raw::File { name: name.to_owned(), origin: origin.into(), language, size, bytes })
}

/// A file that counts what is read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names() {
        let kind = |name: &str| Kind::of(Path::new(name));
        assert_eq!(kind("a/b.JSONL"), Some(Kind::Lines(Packing::None)));
        assert_eq!(kind("b.jsonl.zst"), Some(Kind::Lines(Packing::Zstd)));
        assert_eq!(kind("x.tgz"), Some(Kind::Tar(Packing::Gzip)));
        assert_eq!(kind("x.tar.zst"), Some(Kind::Tar(Packing::Zstd)));
        assert_eq!(kind("train-00000-of-00001.parquet"), Some(Kind::Parquet));
        assert_eq!([kind("a.py"), kind("a.hs")], [Some(Kind::Code); 2]);
        assert_eq!([kind("a.py.gz"), kind("a.txt"), kind("README"), kind("out.jsonl.partial")], [None; 4]);
    }
}
