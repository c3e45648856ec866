//! Text as a sequence of hashed tokens, for comparing texts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Mixes a number so that each of its bits depends on all (the finalizer of MurmurHash3).
#[inline(always)]
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// A hash of `bytes`, the same on every machine. Not against an adversary.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29);
    }
    mix(state)
}

/// A hash of the lower case of a word.
pub fn hash_word(word: &str) -> u64 {
    let mut lower = [0; 64];
    match lower.get_mut(..word.len()) {
        Some(lower) if word.is_ascii() => {
            lower.copy_from_slice(word.as_bytes());
            lower.make_ascii_lowercase();
            hash(lower)
        }
        _ => hash(word.to_lowercase().as_bytes()),
    }
}

/// The length in bytes of the word that `text` begins with, 0 if it begins with none.
fn word_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if byte.is_ascii_alphanumeric() || *byte == b'_' {
            at += 1;
        } else if byte.is_ascii() {
            break;
        } else {
            match text[at..].chars().next() {
                Some(c) if c.is_alphanumeric() => at += c.len_utf8(),
                _ => break,
            }
        }
    }
    at
}

/// Words (runs of letters, digits and `_`) and single other characters, without blank space.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let word = word_len(rest);
        let (token, after) = rest.split_at(if word > 0 { word } else { first.len_utf8() });
        rest = after;
        Some(token)
    })
}

/// The words of a text alone.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    tokens(text).filter(|token| word_len(token) > 0)
}

/// Hashes of all runs of `len` tokens, in order.
pub fn runs(tokens: &[u64], len: usize) -> impl Iterator<Item = u64> + '_ {
    // Factors that differ a place, so that the order of the tokens counts.
    let factor = |at: usize| mix(at as u64 + 1) | 1;
    tokens.windows(len).map(move |run| {
        let sum = run
            .iter()
            .enumerate()
            .fold(0u64, |sum, (at, token)| sum.wrapping_add(token.wrapping_mul(factor(at))));
        mix(sum)
    })
}

/// A map from keys that are hashes already.
pub type HashedMap<T> = HashMap<u64, T, BuildHasherDefault<AsIs>>;

/// Takes a hash for what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_marks() {
        let text = " def f_1(é):\n  return x+=2 ";
        let all = ["def", "f_1", "(", "é", ")", ":", "return", "x", "+", "=", "2"];
        assert_eq!(tokens(text).collect::<Vec<_>>(), all);
        assert_eq!(words(text).collect::<Vec<_>>(), ["def", "f_1", "é", "return", "x", "2"]);
        assert_eq!([hash_word("Übung"), hash_word("ABC")], [hash_word("übung"), hash_word("abc")]);
        assert_ne!(hash(b"a"), hash(b"a\0"));
    }

    proptest! {
        #[test]
        fn nothing_but_blank_space_is_lost(text in "\\PC{0,40}") {
            let kept: String = tokens(&text).collect();
            prop_assert_eq!(kept, text.chars().filter(|c| !c.is_whitespace()).collect::<String>());
        }
    }
}
