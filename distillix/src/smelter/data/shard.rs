//! Shards: the tokens of one source, memory-mapped.
//!
//! A shard is a folder that never changes once it has its name:
//!
//! | file | content (native byte order) |
//! |---|---|
//! | `tokens.bin` | all ids one after the other, u16 where the vocabulary fits, else u32 |
//! | `trained.bin` | a bit for each token: is it a target (JSONL sources only) |
//! | `train.idx`, `validation.idx` | a [`Record`] for each sequence |
//! | `meta.json` | [`Meta`] |

use super::document::Sequence;
use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Grows with every change to the format or to how documents become tokens.
pub const FORMAT: u32 = 2;

/// Fewer held-out documents than this are topped up with others, as far as a tenth of the documents goes.
const MIN_VALIDATION: usize = 8;

/// Where a sequence is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Record {
    /// Index of its first token.
    pub start: u64,
    /// Hash of the document.
    pub hash: u64,
    /// Number of tokens.
    pub len: u32,
    /// [`Record::FIM`], [`Record::WHOLE`].
    pub flags: u32,
}

impl Record {
    /// The sequence is a fill-in.
    pub const FIM: u32 = 1;
    /// Cutting the sequence loses more than context: a fill-in, or a prompt with its response.
    pub const WHOLE: u32 = 2;
}

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Ids take four bytes instead of two.
    pub wide: bool,
    /// Documents that were tokenized.
    pub documents: u64,
    /// Number of tokens, BOS and EOS included.
    pub tokens: u64,
    /// Bytes of text of the documents.
    pub text_bytes: u64,
    /// Documents left out, by reason.
    pub skipped: Vec<(String, u64)>,
    /// Training sequences.
    pub train: u64,
    /// Held-out sequences.
    pub validation: u64,
}

/// A file as a slice.
pub struct Mapped<T> {
    map: Option<Mmap>,
    element: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps a file of whole elements.
    ///
    /// # Errors
    /// When it cannot be read or its length is not a multiple of the element's.
    pub fn open(path: &Path) -> Result<Self> {
        let name = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(name)?;
        let len = file.metadata().with_context(name)?.len();
        ensure!(
            len % size_of::<T>() as u64 == 0,
            "{} is damaged: {len} bytes is no whole number of entries; delete its folder",
            path.display()
        );
        // SAFETY: files of the cache get their name when they are complete and are never written again.
        let map = if len == 0 { None } else { Some(unsafe { Mmap::map(&file) }.with_context(name)?) };
        Ok(Self { map, element: PhantomData })
    }

    /// The elements.
    pub fn get(&self) -> &[T] {
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }
}

enum Tokens {
    Narrow(Mapped<u16>),
    Wide(Mapped<u32>),
}

/// A shard that is open for reading.
pub struct Shard {
    folder: PathBuf,
    meta: Meta,
    tokens: Tokens,
    trained: Mapped<u8>,
    train: Mapped<Record>,
    validation: Mapped<Record>,
}

/// The two parts of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Trained on.
    Train,
    /// Held out.
    Validation,
}

impl Split {
    /// `train` or `validation`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

impl Shard {
    /// Opens the shard in `folder`.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("meta.json");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let meta: Meta = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; delete its folder", path.display()))?;
        let file = folder.join("tokens.bin");
        let tokens =
            if meta.wide { Tokens::Wide(Mapped::open(&file)?) } else { Tokens::Narrow(Mapped::open(&file)?) };
        let shard = Self {
            tokens,
            trained: Mapped::open(&folder.join("trained.bin"))?,
            train: Mapped::open(&folder.join("train.idx"))?,
            validation: Mapped::open(&folder.join("validation.idx"))?,
            folder: folder.to_path_buf(),
            meta,
        };
        let stored = match &shard.tokens {
            Tokens::Narrow(ids) => ids.get().len(),
            Tokens::Wide(ids) => ids.get().len(),
        };
        let (tokens, bits) = (shard.meta.tokens as usize, shard.trained.get().len());
        let ends = |split| shard.records(split).last().map_or(0, |r| r.start as usize + r.len as usize);
        ensure!(
            stored == tokens
                && (bits == 0 || bits == tokens.div_ceil(8))
                && ends(Split::Train) <= tokens
                && ends(Split::Validation) <= tokens,
            "the tokenized data in {} is damaged: delete this folder, it will be made again",
            folder.display()
        );
        Ok(shard)
    }

    /// The shard's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it holds.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The sequences of a split.
    pub fn records(&self, split: Split) -> &[Record] {
        match split {
            Split::Train => self.train.get(),
            Split::Validation => self.validation.get(),
        }
    }

    /// The id of token `index`.
    pub fn token(&self, index: u64) -> u32 {
        match &self.tokens {
            Tokens::Narrow(ids) => u32::from(ids.get()[index as usize]),
            Tokens::Wide(ids) => ids.get()[index as usize],
        }
    }

    /// True if token `index` is a target.
    pub fn is_trained(&self, index: u64) -> bool {
        self.trained.get().get(index as usize / 8).is_none_or(|byte| byte >> (index % 8) & 1 == 1)
    }
}

/// Writes a shard into a folder of its own.
pub struct ShardWriter {
    folder: PathBuf,
    wide: bool,
    tokens: BufWriter<File>,
    trained: Option<BitWriter>,
    records: BufWriter<File>,
    meta: Meta,
    /// The smallest hashes of documents that could be held out beside those below the threshold.
    spare: BTreeSet<u64>,
    held_out: BTreeSet<u64>,
}

struct BitWriter {
    file: BufWriter<File>,
    byte: u8,
    bits: u8,
}

impl BitWriter {
    fn push(&mut self, bit: bool) -> std::io::Result<()> {
        self.byte |= u8::from(bit) << self.bits;
        self.bits += 1;
        if self.bits == 8 {
            self.flush_byte()?;
        }
        Ok(())
    }

    fn flush_byte(&mut self) -> std::io::Result<()> {
        if self.bits > 0 {
            self.file.write_all(&[self.byte])?;
            (self.byte, self.bits) = (0, 0);
        }
        Ok(())
    }
}

impl ShardWriter {
    /// Starts a shard in `folder`, which must exist and be empty. `answered`: some sequences are trained on in part.
    ///
    /// # Errors
    /// When a file cannot be created.
    pub fn create(folder: &Path, vocabulary: usize, answered: bool) -> Result<Self> {
        let create = |name: &str| {
            let path = folder.join(name);
            let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            anyhow::Ok(BufWriter::with_capacity(1 << 20, file))
        };
        let trained = create("trained.bin")?;
        Ok(Self {
            wide: vocabulary > 1 << 16,
            tokens: create("tokens.bin")?,
            trained: answered.then_some(BitWriter { file: trained, byte: 0, bits: 0 }),
            records: create("records.tmp")?,
            meta: Meta { wide: vocabulary > 1 << 16, ..Meta::default() },
            spare: BTreeSet::new(),
            held_out: BTreeSet::new(),
            folder: folder.to_path_buf(),
        })
    }

    /// Appends a document of `text_bytes` bytes. `validation`: its hash is below the threshold.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn push(
        &mut self,
        hash: u64,
        validation: bool,
        text_bytes: u64,
        sequences: &[Sequence],
    ) -> Result<()> {
        self.write(hash, sequences).with_context(|| format!("cannot write to {}", self.folder.display()))?;
        self.meta.documents += 1;
        self.meta.text_bytes += text_bytes;
        let set = match sequences {
            _ if validation => &mut self.held_out,
            [sequence] if !sequence.fim => &mut self.spare,
            _ => return Ok(()),
        };
        set.insert(hash);
        if set.len() > MIN_VALIDATION {
            set.pop_last();
        }
        Ok(())
    }

    fn write(&mut self, hash: u64, sequences: &[Sequence]) -> Result<()> {
        for sequence in sequences {
            for id in &sequence.ids {
                if self.wide {
                    self.tokens.write_all(&id.to_ne_bytes())?;
                } else {
                    self.tokens.write_all(&(*id as u16).to_ne_bytes())?;
                }
            }
            if let Some(bits) = &mut self.trained {
                for at in 0..sequence.ids.len() {
                    bits.push(sequence.trained.as_ref().is_none_or(|trained| trained[at]))?;
                }
            }
            let len = u32::try_from(sequence.ids.len()).context("a document of over 4 billion tokens")?;
            let whole = sequence.fim || sequence.trained.is_some();
            let flags = u32::from(sequence.fim) * Record::FIM + u32::from(whole) * Record::WHOLE;
            let record = Record { start: self.meta.tokens, hash, len, flags };
            self.records.write_all(bytemuck::bytes_of(&record))?;
            self.meta.tokens += u64::from(len);
        }
        Ok(())
    }

    /// Divides the sequences into training and validation, and makes everything durable.
    ///
    /// Held out are the documents for which `is_validation` holds. Where they are fewer than eight, those with the smallest
    /// hashes among the documents that are no fill-ins are added, up to a tenth of all. A split never leaves the
    /// training part empty.
    ///
    /// # Errors
    /// When there is no sequence at all, or a file cannot be written.
    pub fn finish(
        mut self,
        skipped: Vec<(String, u64)>,
        is_validation: impl Fn(u64) -> bool,
        top_up: bool,
    ) -> Result<Meta> {
        let name = format!("cannot write to {}", self.folder.display());
        ensure!(self.meta.documents > 0, "there are no documents");
        if let Some(bits) = &mut self.trained {
            bits.flush_byte().with_context(|| name.clone())?;
            sync(&mut bits.file).with_context(|| name.clone())?;
        }
        sync(&mut self.tokens).with_context(|| name.clone())?;
        self.records.flush().with_context(|| name.clone())?;
        let wanted = MIN_VALIDATION.min((self.meta.documents as usize).div_ceil(10));
        let missing = if top_up { wanted.saturating_sub(self.held_out.len()) } else { 0 };
        let extra: Vec<u64> = self.spare.iter().take(missing).copied().collect();
        for attempt in 0..3 {
            let held_out = |hash: u64| match attempt {
                0 => is_validation(hash) || extra.contains(&hash),
                1 => is_validation(hash),
                _ => false,
            };
            (self.meta.train, self.meta.validation) = self.divide(held_out).with_context(|| name.clone())?;
            if self.meta.train > 0 {
                break;
            }
        }
        std::fs::remove_file(self.folder.join("records.tmp")).with_context(|| name.clone())?;
        self.meta.skipped = skipped;
        let mut file =
            BufWriter::new(File::create(self.folder.join("meta.json")).with_context(|| name.clone())?);
        serde_json::to_writer_pretty(&mut file, &self.meta).with_context(|| name.clone())?;
        sync(&mut file).with_context(|| name.clone())?;
        Ok(self.meta)
    }

    fn divide(&self, held_out: impl Fn(u64) -> bool) -> Result<(u64, u64)> {
        let create = |split: Split| File::create(self.folder.join(format!("{}.idx", split.name())));
        let mut train = BufWriter::new(create(Split::Train)?);
        let mut validation = BufWriter::new(create(Split::Validation)?);
        let mut counts = (0, 0);
        let mut records = BufReader::new(File::open(self.folder.join("records.tmp"))?);
        let mut buffer = [0; size_of::<Record>()];
        while records.read_exact(&mut buffer).is_ok() {
            let record: Record = bytemuck::pod_read_unaligned(&buffer);
            if held_out(record.hash) {
                validation.write_all(&buffer)?;
                counts.1 += 1;
            } else {
                train.write_all(&buffer)?;
                counts.0 += 1;
            }
        }
        sync(&mut train)?;
        sync(&mut validation)?;
        Ok(counts)
    }
}

fn sync(file: &mut BufWriter<File>) -> std::io::Result<()> {
    file.flush()?;
    file.get_ref().sync_all()
}
