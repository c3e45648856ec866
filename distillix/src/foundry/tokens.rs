//! Text as a sequence of hashed tokens, for comparing texts.

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
    if word.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'_') {
        return hash(word.as_bytes());
    }
    if word.is_ascii() {
        hash(word.to_ascii_lowercase().as_bytes())
    } else {
        hash(word.to_lowercase().as_bytes())
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Words (runs of letters, digits and `_`) and single other characters, without blank space.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let len =
            if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (token, after) = rest.split_at(len);
        rest = after;
        Some(token)
    })
}

/// The words of a text alone.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
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
