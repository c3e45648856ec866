//! A fast and exact way to encode with a BPE that has no pre-tokenizer.
//!
//! Such a tokenizer (Llama-2's) takes a whole document as one word, which is slow for long ones. But a merge
//! makes a token out of two neighbouring tokens, so wherever two neighbouring characters stand side by side in
//! no token at all, no merge crosses, and the text may be cut there with the same ids as result. For Llama-2 that is
//! before every space after another character, around newlines, and at most punctuation. The words between the
//! cuts repeat, so their ids are remembered.

use super::{SPACE_MARK, bytes::byte_token, encode_whole, parts};
use anyhow::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Mutex;

/// Longer words are not remembered.
const MAX_WORD: usize = 48;
/// Words a thread remembers before it starts afresh (about 20 MB).
const MAX_WORDS: usize = 1 << 18;

/// Cuts text where no token can reach across.
pub(super) struct WordEncoder {
    joins: Joins,
    /// One memory for each thread that encodes at the moment.
    memories: Mutex<Vec<Memory>>,
}

/// Which pairs of neighbouring ASCII characters some token contains.
struct Joins {
    pair: Box<[[bool; 128]; 128]>,
    /// Some token has this character before, or after, another one of any kind.
    before_any: [bool; 128],
    after_any: [bool; 128],
}

#[derive(Default)]
struct Memory {
    words: HashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
}

impl WordEncoder {
    /// `None` if the tokenizer is of another kind, or if cutting could change ids.
    ///
    /// `json` is a `tokenizer.json` without prefix step and dropout.
    pub(super) fn new(json: &Value) -> Option<Self> {
        let model = &json["model"];
        let absent = |key: &str| matches!(&model[key], Value::Null) || model[key].as_str() == Some("");
        // Some files of BPE models have no `type`.
        let is_bpe = matches!(parts::kind(model), "BPE" | "") && model["merges"].is_array();
        if !is_bpe
            || !absent("continuing_subword_prefix")
            || !absent("end_of_word_suffix")
            || model["ignore_merges"].as_bool() == Some(true)
            || model["byte_fallback"].as_bool() != Some(true)
        {
            return None;
        }
        let mut local = true;
        parts::steps(&json["normalizer"], "normalizers", &mut |step| {
            local &= parts::kind(step) == "Replace" && parts::replaces(step, ' ', "\u{2581}");
        });
        let mut marks = false;
        parts::steps(&json["normalizer"], "normalizers", &mut |_| marks = true);
        parts::steps(&json["pre_tokenizer"], "pretokenizers", &mut |step| {
            local &= parts::kind(step) == "Metaspace" && step["replacement"].as_str() == Some("\u{2581}");
            marks = true;
        });
        let added = json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !local || added.iter().any(|token| token["special"].as_bool() != Some(true)) {
            return None;
        }
        let vocabulary = model["vocab"].as_object()?;
        // With every byte there is no unknown token, whose runs the model would join.
        if (0..=255).any(|b| !vocabulary.contains_key(&format!("<0x{b:02X}>"))) {
            return None;
        }
        let is_byte = |part: Option<&str>| part.is_some_and(|part| byte_token(part).is_some());
        for merge in model["merges"].as_array()? {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            if is_byte(Some(left)) || is_byte(Some(right)) {
                return None;
            }
        }
        Some(Self { joins: Joins::new(vocabulary.keys(), marks), memories: Mutex::default() })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, inner: &tokenizers::Tokenizer, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut memory = self.lock().pop().unwrap_or_default();
        let result = self.joins.words(text).try_for_each(|word| memory.encode(inner, word, out));
        self.lock().push(memory);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        // A memory is only pushed whole, so a thread that panicked left nothing half done.
        self.memories.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Memory {
    fn encode(&mut self, inner: &tokenizers::Tokenizer, word: &str, out: &mut Vec<u32>) -> Result<()> {
        if let Some((start, end)) = self.words.get(word) {
            out.extend_from_slice(&self.ids[*start as usize..*end as usize]);
            return Ok(());
        }
        let before = out.len();
        encode_whole(inner, word, out)?;
        if word.len() <= MAX_WORD {
            if self.words.len() >= MAX_WORDS {
                *self = Self::default();
            }
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&out[before..]);
            self.words.insert(word.into(), (start, self.ids.len() as u32));
        }
        Ok(())
    }
}

impl Joins {
    fn new<'a>(tokens: impl Iterator<Item = &'a String>, spaces_are_marked: bool) -> Self {
        let mut joins =
            Self { pair: Box::new([[false; 128]; 128]), before_any: [false; 128], after_any: [false; 128] };
        for token in tokens.filter(|token| byte_token(token).is_none()) {
            let characters = token.chars().map(|c| match c {
                SPACE_MARK if spaces_are_marked => ' ',
                c => c,
            });
            for (a, b) in characters.clone().zip(characters.skip(1)) {
                let (a, b) = (a as usize, b as usize);
                if a < 128 {
                    joins.before_any[a] = true;
                }
                if b < 128 {
                    joins.after_any[b] = true;
                }
                if a < 128 && b < 128 {
                    joins.pair[a][b] = true;
                }
            }
        }
        joins
    }

    fn cuts(&self, a: u8, b: u8) -> bool {
        match (a < 128, b < 128) {
            (true, true) => !self.pair[a as usize][b as usize],
            (true, false) => !self.before_any[a as usize],
            // `a` is the last byte of a longer character.
            (false, true) => !self.after_any[b as usize],
            (false, false) => false,
        }
    }

    fn words<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let bytes = text.as_bytes();
        let mut start = 0;
        std::iter::from_fn(move || {
            if start == bytes.len() {
                return None;
            }
            let end = (start + 1..bytes.len())
                .find(|end| self.cuts(bytes[end - 1], bytes[*end]))
                .unwrap_or(bytes.len());
            // Both sides of a cut are never inside a character: one of the two bytes there is ASCII.
            let word = &text[start..end];
            start = end;
            Some(word)
        })
    }
}
