//! Documents, and their way to token sequences.

use super::fim::{Draws, windows};
use super::template::{Piece, encode_pieces};
use crate::tokenizer::Tokenizer;
use anyhow::Result;

/// One document of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Text or code, all of it trained on; turned into a fill-in at the configured rate.
    Plain {
        /// The text.
        text: String,
        /// Byte ranges that make good middles: on character boundaries, within the text.
        fim_spans: Vec<(usize, usize)>,
    },
    /// A rendered conversation, trained on in part; never turned into a fill-in.
    Answered {
        /// The pieces, prompt and all.
        pieces: Vec<Piece>,
        /// The response once more, if it is code of which the line says what makes good middles. At the configured rate a fill-in
        /// of it is trained on beside the conversation.
        code: Option<Code>,
    },
}

/// Code and what makes good middles of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The code.
    pub text: String,
    /// Byte ranges that make good middles: on character boundaries, within the text.
    pub fim_spans: Vec<(usize, usize)>,
}

/// One sequence of tokens, from BOS to EOS: a document, or a fill-in window of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each id is a target; `None` if all are.
    pub trained: Option<Vec<bool>>,
    /// True for a fill-in.
    pub fim: bool,
}

/// BOS, EOS, three FIM tokens, and some for words that the cuts of a fill-in divide.
const FIM_OVERHEAD: usize = 16;

/// How documents are encoded; part of the key of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Share of plain documents that become fill-ins.
    pub fim_rate: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens in a row: longer fill-ins are cut into windows that fit one.
    pub seq_len: usize,
    /// Documents whose hash, as a share of 2^64, is below this are held out, and never fill-ins.
    pub validation_fraction: f64,
}

impl Document {
    /// A hash of the content, the same for every seed, tokenizer and machine.
    pub fn hash(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Plain { text, .. } => {
                hasher.update(text.as_bytes());
            }
            Self::Answered { pieces, .. } => {
                for piece in pieces {
                    let (text, tag) = match piece {
                        Piece::Text(text, trained) => (text.as_bytes(), u64::from(*trained)),
                        Piece::Token(_, trained) => (&b""[..], 2 + u64::from(*trained)),
                    };
                    hasher.update(&(text.len() as u64 * 4 + tag).to_le_bytes()).update(text);
                }
            }
        }
        let bytes = *hasher.finalize().as_bytes();
        u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
    }

    /// True if there is nothing to train on.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain { text, .. } => text.is_empty(),
            Self::Answered { pieces, .. } => {
                !pieces.iter().any(|piece| matches!(piece, Piece::Text(_, true) | Piece::Token(_, true)))
            }
        }
    }
}

impl Encoding<'_> {
    /// True if a document with this hash is held out for validation.
    pub fn is_validation(&self, hash: u64) -> bool {
        (hash as f64) < self.validation_fraction * 2f64.powi(64)
    }

    /// The sequences of a document: one, or one for each window of a long fill-in; and the fill-ins of an answer's code.
    ///
    /// # Errors
    /// When a text cannot be tokenized.
    pub fn encode(&self, document: &Document) -> Result<Vec<Sequence>> {
        let (bos, eos) = (self.tokenizer.bos(), self.tokenizer.eos());
        match document {
            Document::Answered { pieces, code } => {
                let (mut ids, mut trained) = encode_pieces(self.tokenizer, pieces)?;
                // What follows the last answer in the template would never be a target.
                let end = trained.iter().rposition(|t| *t).map_or(ids.len(), |at| at + 1);
                ids.truncate(end);
                trained.truncate(end);
                if ids.last() != Some(&eos) || trained.last() == Some(&false) {
                    ids.push(eos);
                    trained.push(true);
                }
                let mut sequences = vec![Sequence { ids, trained: Some(trained), fim: false }];
                if let Some(code) = code {
                    let hash = document.hash();
                    let draws = Draws::new(self.seed, hash);
                    if !self.is_validation(hash) && draws.is_fim(self.fim_rate) {
                        sequences.extend(self.encode_fim(&code.text, &code.fim_spans, draws)?);
                    }
                }
                Ok(sequences)
            }
            Document::Plain { text, fim_spans } => {
                let hash = document.hash();
                let draws = Draws::new(self.seed, hash);
                if !self.is_validation(hash) && draws.is_fim(self.fim_rate) {
                    return self.encode_fim(text, fim_spans, draws);
                }
                let mut ids = vec![bos];
                ids.extend(self.tokenizer.encode_document(text)?);
                ids.push(eos);
                Ok(vec![Sequence { ids, trained: None, fim: false }])
            }
        }
    }

    fn encode_fim(&self, text: &str, spans: &[(usize, usize)], draws: Draws) -> Result<Vec<Sequence>> {
        let (tokenizer, fim) = (self.tokenizer, self.tokenizer.fim());
        let mut offset = 0;
        let max = self.seq_len.saturating_sub(FIM_OVERHEAD).max(1);
        let windows = windows(text, max, |line| Ok(tokenizer.encode_piece(line)?.len()))?;
        let sequences = windows.into_iter().enumerate().map(|(index, window)| {
            let inside: Vec<(usize, usize)> = spans
                .iter()
                .filter(|(start, end)| *start >= offset && *end <= offset + window.len())
                .map(|(start, end)| (start - offset, end - offset))
                .collect();
            offset += window.len();
            let parts = draws.split(index as u64, window, &inside);
            let prefix = tokenizer.encode_document(parts.prefix)?;
            let suffix = tokenizer.encode_piece(parts.suffix)?;
            let middle = tokenizer.encode_piece(parts.middle)?;
            let mut ids = Vec::with_capacity(prefix.len() + suffix.len() + middle.len() + 5);
            ids.extend([tokenizer.bos(), fim.prefix]);
            if parts.suffix_first {
                ids.push(fim.suffix);
                ids.extend(suffix);
                ids.push(fim.middle);
                ids.extend(prefix);
            } else {
                ids.extend(prefix);
                ids.push(fim.suffix);
                ids.extend(suffix);
                ids.push(fim.middle);
            }
            ids.extend(middle);
            ids.push(tokenizer.eos());
            Ok(Sequence { ids, trained: None, fim: true })
        });
        sequences.collect()
    }
}
