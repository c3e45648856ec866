//! Text to token ids and back, for any Hugging Face `tokenizer.json`, losslessly.
//!
//! The file is used as it is, with four differences that training and completing code need:
//!
//! * Text is only text. A literal `<s>` in a source file is encoded as its characters; control tokens come from
//!   the program (or from a chat template), never from data.
//! * A tokenizer that puts a space before every string it encodes (Llama-2's `Prepend`, `Metaspace`) does so for
//!   a document's first piece only, so that a text encoded in pieces decodes to itself.
//! * Decoding works on bytes, so a completion is exactly what the new tokens add and a stream is cut between
//!   characters only.
//! * The four fill-in-the-middle tokens always exist: recognised under their usual names, else added at the end.

mod bytes;
mod corpus;
mod parts;
mod special;
mod stream;
pub mod train;
mod words;

pub use corpus::train_on_files;
pub use special::{FimTokens, Segment};
pub use stream::DecodeStream;

use anyhow::{Context, Result, anyhow, bail};
use bytes::ByteTable;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use words::WordEncoder;

/// `vocab_size` of a model is the tokenizer's length rounded up to a multiple of this.
pub const VOCAB_MULTIPLE: usize = 64;

/// The character by which SentencePiece-style vocabularies write a space.
pub(crate) const SPACE_MARK: char = '\u{2581}';

/// A loaded tokenizer. Immutable and `Sync`: one is shared by all threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What is written to a run folder: the bytes that were loaded, or those plus the added tokens.
    file: Vec<u8>,
    hash: blake3::Hash,
    len: usize,
    /// `len` without the tokens that were added.
    own_len: usize,
    bos: u32,
    eos: u32,
    fim: FimTokens,
    /// Contents and ids of the control tokens, longest first.
    special: Vec<(String, u32)>,
    is_special: Vec<bool>,
    /// What the tokenizer puts before the first piece of a document.
    dummy_prefix: Option<String>,
    /// The byte tokens that spell a literal `▁`, which the decoder would turn into a space.
    space_mark_ids: Option<Vec<u32>>,
    table: ByteTable,
    words: Option<WordEncoder>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {})", self.len, &self.hash.to_hex()[..12])
    }
}

impl Tokenizer {
    /// Loads `path`, a `tokenizer.json` or a folder that holds one. A `tokenizer_config.json` beside it decides
    /// the names of BOS and EOS.
    ///
    /// # Errors
    /// When the file cannot be read, is no tokenizer, or has no token that can end a document.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read the tokenizer {}", file.display()))?;
        let config = file.with_file_name("tokenizer_config.json");
        let config = match std::fs::read(&config) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", config.display())),
        };
        Self::from_bytes(bytes, config.as_deref())
            .with_context(|| format!("{} cannot be used as a tokenizer", file.display()))
    }

    /// Builds a tokenizer from the bytes of a `tokenizer.json` and, if there is one, of its
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>, config: Option<&[u8]>) -> Result<Self> {
        let bytes = bytes.into();
        let mut json: Value = serde_json::from_slice(&bytes).context("it is not JSON")?;
        let config: Value = match config {
            Some(bytes) => serde_json::from_slice(bytes).context("tokenizer_config.json is not JSON")?,
            None => Value::Null,
        };
        let vocabulary = special::Vocabulary::read(&json)?;
        let own_len = vocabulary.len();
        let (fim, missing) = special::find_fim(&vocabulary);
        let mut file = bytes;
        if !missing.is_empty() {
            special::add_tokens(&mut json, &missing)?;
            file = serde_json::to_vec(&json)?;
        }
        let vocabulary = special::Vocabulary::read(&json)?;
        let (bos, eos) = special::find_bos_eos(&json, &config, &vocabulary)?;
        special::mark_special(&mut json, &[bos, eos, fim.prefix, fim.suffix, fim.middle, fim.pad])?;

        let decoder = parts::Decoder::read(&json);
        let dummy_prefix = parts::take_dummy_prefix(&mut json);
        parts::remove_randomness_and_padding(&mut json);
        let words = WordEncoder::new(&json);
        let mut inner = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&json)?)
            .map_err(|error| anyhow!("the tokenizers library rejects it: {error}"))?;
        inner.set_encode_special_tokens(true);

        let len = vocabulary.len();
        let table = ByteTable::new(decoder, &inner, len);
        let special = special::control_tokens(&json);
        let mut is_special = vec![false; len];
        for (_, id) in &special {
            is_special[*id as usize] = true;
        }
        let space_mark_ids = table.spaces_are_marked().then(|| byte_ids(&inner, SPACE_MARK)).flatten();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file).update(&bos.to_le_bytes()).update(&eos.to_le_bytes());
        Ok(Self {
            inner,
            hash: hasher.finalize(),
            file,
            len,
            own_len,
            bos,
            eos,
            fim,
            special,
            is_special,
            dummy_prefix,
            space_mark_ids,
            table,
            words,
        })
    }

    /// Writes `tokenizer.json` (the loaded bytes; with the added tokens if some were needed) and a
    /// `tokenizer_config.json` with the names of BOS and EOS into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let config = serde_json::json!({
            "bos_token": self.name(self.bos), "eos_token": self.name(self.eos), "pad_token": self.name(self.fim.pad),
        });
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            let flushed = || {
                let mut file = File::create(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            flushed().with_context(|| format!("cannot write {}", path.display()))
        };
        write("tokenizer.json", &self.file)?;
        write("tokenizer_config.json", serde_json::to_string_pretty(&config)?.as_bytes())
    }

    /// The bytes that [`Tokenizer::save`] writes as `tokenizer.json`.
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// Hash of the file, its added tokens and the choice of BOS and EOS: equal hashes give equal ids.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// Number of ids, added tokens included: the largest id plus one.
    #[allow(clippy::len_without_is_empty, reason = "a tokenizer is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of ids of the loaded file, without fill-in-the-middle tokens that it lacked.
    pub fn own_len(&self) -> usize {
        self.own_len
    }

    /// [`Tokenizer::len`] rounded up to a multiple of [`VOCAB_MULTIPLE`], a model's `vocab_size`.
    pub fn padded_len(&self) -> usize {
        self.len.next_multiple_of(VOCAB_MULTIPLE)
    }

    /// The token that starts a document.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that ends a document.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The fill-in-the-middle tokens.
    pub fn fim(&self) -> FimTokens {
        self.fim
    }

    /// The text by which a token is written in the vocabulary; empty for an id without a token.
    pub fn name(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// The id of the token written `name`.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// True for control tokens: they are never produced from text and decode to nothing.
    pub fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    /// The ids of a text that starts a document, without BOS and EOS.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        match &self.dummy_prefix {
            Some(prefix) if !text.is_empty() => {
                let mut ids = Vec::with_capacity(text.len() / 3 + 2);
                let end = text.find(SPACE_MARK).unwrap_or(text.len());
                self.encode_plain(&format!("{prefix}{}", &text[..end]), &mut ids)?;
                self.encode_into(&text[end..], &mut ids)?;
                Ok(ids)
            }
            _ => self.encode_piece(text),
        }
    }

    /// The ids of a text that continues a document: what `encode_document` gives, without the leading space that
    /// some tokenizers add.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_document`].
    pub fn encode_piece(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let Some(mark_ids) = &self.space_mark_ids else { return self.encode_plain(text, out) };
        for (index, part) in text.split(SPACE_MARK).enumerate() {
            if index > 0 {
                out.extend_from_slice(mark_ids);
            }
            self.encode_plain(part, out)?;
        }
        Ok(())
    }

    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.words {
            Some(words) => words.encode(&self.inner, text, out),
            None => encode_whole(&self.inner, text, out),
        }
    }

    /// Cuts a text at the control tokens written in it. For text that the program or its user wrote as a
    /// template, never for data.
    pub fn segments<'a>(&self, text: &'a str) -> Vec<Segment<'a>> {
        special::segments(text, &self.special)
    }

    /// The text of a whole document's ids. Control tokens give nothing; bytes that are not UTF-8 give `U+FFFD`.
    pub fn decode_document(&self, ids: &[u32]) -> String {
        self.decode_completion(&[], ids)
    }

    /// The text that `new` adds to `prompt`: `decode(prompt + new)` minus `decode(prompt)`.
    pub fn decode_completion(&self, prompt: &[u32], new: &[u32]) -> String {
        let mut stream = DecodeStream::new(self, prompt);
        let mut text: String = new.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Number of bytes of text that each token stands for, by id; 0 for control tokens.
    pub fn byte_lengths(&self) -> Vec<u32> {
        (0..self.len as u32)
            .map(|id| if self.is_special(id) { 0 } else { self.table.get(id).len() as u32 })
            .collect()
    }

    /// Bytes that `encode_document` puts before the text and decoding takes away again.
    pub fn dummy_prefix_bytes(&self) -> u32 {
        u32::from(self.dummy_prefix.is_some())
    }
}

fn encode_whole(inner: &tokenizers::Tokenizer, text: &str, out: &mut Vec<u32>) -> Result<()> {
    let encoding =
        inner.encode_fast(text, false).map_err(|error| anyhow!("the text cannot be tokenized: {error}"))?;
    if encoding.get_ids().is_empty() {
        bail!("the tokenizer gives no token for a text of {} bytes", text.len());
    }
    out.extend_from_slice(encoding.get_ids());
    Ok(())
}

fn byte_ids(inner: &tokenizers::Tokenizer, character: char) -> Option<Vec<u32>> {
    let mut buffer = [0; 4];
    character.encode_utf8(&mut buffer).bytes().map(|b| inner.token_to_id(&format!("<0x{b:02X}>"))).collect()
}
