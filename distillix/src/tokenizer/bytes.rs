//! The bytes that each token stands for.

use super::{SPACE_MARK, parts::Decoder};

/// Bytes of every token, by id.
pub(super) struct ByteTable {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    decoder: Decoder,
}

impl ByteTable {
    pub(super) fn new(decoder: Decoder, inner: &tokenizers::Tokenizer, len: usize) -> Self {
        let added = inner.get_added_tokens_decoder();
        let byte_of = byte_level_alphabet();
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for id in 0..len as u32 {
            let token = inner.id_to_token(id).unwrap_or_default();
            match decoder {
                _ if added.contains_key(&id) => bytes.extend_from_slice(token.as_bytes()),
                Decoder::ByteLevel => match token.chars().map(&byte_of).collect::<Option<Vec<u8>>>() {
                    Some(exact) => bytes.extend(exact),
                    None => bytes.extend_from_slice(token.as_bytes()),
                },
                Decoder::Marked { byte_fallback } => match byte_token(&token) {
                    Some(byte) if byte_fallback => bytes.push(byte),
                    _ => bytes.extend_from_slice(token.replace(SPACE_MARK, " ").as_bytes()),
                },
                Decoder::Other => bytes.extend(inner.decode(&[id], false).unwrap_or_default().into_bytes()),
            }
            starts.push(bytes.len() as u32);
        }
        Self { bytes, starts, decoder }
    }

    /// The bytes of a token; empty for an id past the vocabulary.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// True if decoding turns `▁` into a space.
    pub(super) fn spaces_are_marked(&self) -> bool {
        matches!(self.decoder, Decoder::Marked { .. })
    }
}

/// The byte of a token such as `<0x0A>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others, in order, for `U+0100` on.
fn byte_level_alphabet() -> impl Fn(char) -> Option<u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let hidden: Vec<u8> = (0..=255).filter(|b| !printable(b)).collect();
    move |c| match u32::from(c) {
        code @ 0..=255 => Some(code as u8).filter(printable),
        code => hidden.get(code as usize - 256).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_alphabet() {
        let byte_of = byte_level_alphabet();
        for (c, byte) in [('A', b'A'), ('Ġ', b' '), ('Ċ', b'\n'), ('ĉ', b'\t'), ('ł', 0xA0), ('Ń', 0xAD)]
        {
            assert_eq!(byte_of(c), Some(byte), "{c}");
        }
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('日'), None);
    }
}
