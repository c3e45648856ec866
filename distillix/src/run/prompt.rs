//! What a model is asked to continue, as tokens that fit its context.

use crate::smelter::data::{Message, Template};
use crate::tokenizer::Tokenizer;
use anyhow::{Result, ensure};

/// What a model is asked to continue.
#[derive(Clone, Copy)]
pub enum PromptText<'a> {
    /// The start of a document.
    Start(&'a str),
    /// The text around a hole.
    Around {
        /// Above the hole.
        prefix: &'a str,
        /// Below the hole.
        suffix: &'a str,
    },
    /// A conversation that the assistant continues.
    Chat(&'a [Message], &'a Template),
}

/// Tokens for a model to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens, BOS first.
    pub ids: Vec<u32>,
    /// Tokens that were left out because the context is too short.
    pub dropped: usize,
    /// Tokens that end a completion.
    pub stops: Vec<u32>,
}

impl Prompt {
    /// Encodes `text` for a context of `context` tokens. Where that is too short, what is nearest to the place to
    /// continue is kept, with room for up to `max_tokens` more, though no more than a quarter of the context.
    ///
    /// # Errors
    /// When the text cannot be encoded, it has a hole and the tokenizer no fill-in-the-middle tokens, or the context
    /// is too short for any text.
    pub fn new(
        text: PromptText<'_>,
        tokenizer: &Tokenizer,
        context: usize,
        max_tokens: usize,
    ) -> Result<Self> {
        let bos = tokenizer.bos();
        let (mut start, mut end, mut suffix) = (vec![bos], Vec::new(), Vec::new());
        let mut stops = vec![tokenizer.eos()];
        let mut prefix = match text {
            PromptText::Start(text) => tokenizer.encode_document(text)?,
            PromptText::Around { prefix, suffix: below } => {
                let fim = tokenizer.fim();
                let known = [fim.prefix, fim.suffix, fim.middle]
                    .iter()
                    .all(|id| (*id as usize) < tokenizer.own_len());
                ensure!(
                    known,
                    "the model's tokenizer has no fill-in-the-middle tokens, so it cannot fill in between a prefix and a suffix"
                );
                start.push(fim.prefix);
                suffix = tokenizer.encode_piece(below)?;
                suffix.insert(0, fim.suffix);
                end.push(fim.middle);
                tokenizer.encode_document(prefix)?
            }
            PromptText::Chat(messages, template) => {
                let control =
                    |id: &u32| tokenizer.is_special(*id) && *id != bos && !tokenizer.fim().contains(*id);
                stops.extend((0..tokenizer.len() as u32).filter(control).filter(|id| *id != tokenizer.eos()));
                template.encode_prompt(tokenizer, messages)?.split_off(1)
            }
        };
        let fixed = start.len() + end.len();
        let whole = fixed + prefix.len() + suffix.len();
        let mut dropped = 0;
        if whole > context {
            let room = context.saturating_sub(max_tokens.min(context / 4).max(1));
            ensure!(room > fixed + 1, "the model's context of {context} tokens is too short for this prompt");
            let room = room - fixed;
            // Text above the hole matters more: what is below gets a quarter, or what is left over.
            let below = suffix.len().min((room / 4).max(room.saturating_sub(prefix.len())));
            suffix.truncate(below);
            prefix.drain(..prefix.len().saturating_sub(room - below));
            dropped = whole - fixed - prefix.len() - suffix.len();
        }
        let ids = [start, prefix, suffix, end].concat();
        Ok(Prompt { ids, dropped, stops })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smelter::data::builtin;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(builtin::TOKENIZER_JSON, None).unwrap()
    }

    #[test]
    fn text_around_a_hole_comes_in_training_order() {
        let t = tokenizer();
        let around = PromptText::Around { prefix: "def f(", suffix: "\n    return 1" };
        let ids = Prompt::new(around, &t, 256, 16).unwrap().ids;
        let (above, below) =
            (t.encode_document("def f(").unwrap(), t.encode_piece("\n    return 1").unwrap());
        let fim = t.fim();
        let want = [vec![t.bos(), fim.prefix], above, vec![fim.suffix], below, vec![fim.middle]].concat();
        assert_eq!(ids, want);
    }

    #[test]
    fn what_is_nearest_is_kept() {
        let t = tokenizer();
        let text: String = (0..200).map(|i| format!("x{i} = {i}\n")).collect();
        let whole = t.encode_document(&text).unwrap();
        let prompt = Prompt::new(PromptText::Start(&text), &t, 64, 8).unwrap();
        assert_eq!((prompt.ids.len(), prompt.ids[0]), (56, t.bos()));
        assert_eq!(prompt.ids[1..], whole[whole.len() - 55..]);
        assert_eq!(prompt.dropped, whole.len() - 55);

        let prompt = Prompt::new(PromptText::Around { prefix: &text, suffix: &text }, &t, 64, 100).unwrap();
        let fim = t.fim();
        assert_eq!((prompt.ids.len(), prompt.ids[1], prompt.ids.last()), (48, fim.prefix, Some(&fim.middle)));
        let hole = prompt.ids.iter().position(|id| *id == fim.suffix).unwrap();
        assert_eq!(prompt.ids[2..hole], whole[whole.len() - (hole - 2)..]);
        let below = &prompt.ids[hole + 1..47];
        assert!(below.len() >= 10, "{}", below.len());
        assert_eq!(*below, t.encode_piece(&text).unwrap()[..below.len()]);

        // All of a short suffix is kept, and a prompt that just fits is not cut.
        let prompt = Prompt::new(PromptText::Around { prefix: &text, suffix: "\n" }, &t, 64, 8).unwrap();
        assert_eq!(prompt.ids[prompt.ids.len() - 3], fim.suffix);
        let prompt = Prompt::new(PromptText::Start(&text), &t, whole.len() + 1, 8).unwrap();
        assert_eq!((prompt.dropped, prompt.ids.len()), (0, whole.len() + 1));
        assert!(Prompt::new(PromptText::Start(&text), &t, 2, 8).is_err());
    }

    #[test]
    fn a_tokenizer_without_fill_in_tokens_says_so() {
        let mut json: serde_json::Value = serde_json::from_str(builtin::TOKENIZER_JSON).unwrap();
        let is_fim = |name: &str| name.starts_with("<|fim_");
        json["added_tokens"].as_array_mut().unwrap().retain(|t| !is_fim(t["content"].as_str().unwrap()));
        json["model"]["vocab"].as_object_mut().unwrap().retain(|name, _| !is_fim(name));
        let t = Tokenizer::from_bytes(serde_json::to_vec(&json).unwrap(), None).unwrap();
        let around = PromptText::Around { prefix: "a", suffix: "b" };
        let error = Prompt::new(around, &t, 256, 16).unwrap_err().to_string();
        assert!(error.contains("no fill-in-the-middle tokens"), "{error}");
    }
}
