//! Tokens to text, one at a time.

use super::Tokenizer;

/// Turns tokens into text as they come, never cutting a character in two.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes that may be the start of a character.
    held: Vec<u8>,
    /// True until the document's first text: there the tokenizer's own leading space is dropped.
    at_start: bool,
}

impl<'a> DecodeStream<'a> {
    /// A stream of what follows `prompt`.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        // A fill-in continues what stands around it, even where that is nothing.
        let at_start = tokenizer.dummy_prefix.is_some()
            && prompt.iter().all(|id| tokenizer.is_special(*id) && *id != tokenizer.fim.middle);
        Self { tokenizer, held: Vec::new(), at_start }
    }

    /// Adds a token and returns the characters that are now complete. Bytes that can be no character give
    /// `U+FFFD`; control tokens give nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return self.finish();
        }
        let bytes = self.tokenizer.table.get(id);
        let skip = usize::from(std::mem::take(&mut self.at_start) && bytes.first() == Some(&b' '));
        self.held.extend_from_slice(&bytes[skip..]);
        self.take(false)
    }

    /// What is left at the end: nothing, or `U+FFFD` for a character that was never completed.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(len) => rest = &rest[len..],
                        None if all => rest = &[],
                        None => break,
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        self.held = rest.to_vec();
        text
    }
}
