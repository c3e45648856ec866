//! Small tokenizers for tests.

use distillix::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Merges of a vocabulary that joins within words, runs of spaces and some punctuation, as Llama-2's does.
const MERGES: [&str; 22] = [
    "▁ ▁",
    "▁▁ ▁▁",
    "d e",
    "de f",
    "▁ def",
    "r e",
    "t u",
    "re tu",
    "r n",
    "retu rn",
    "▁ return",
    "( )",
    "() :",
    "▁ =",
    "▁= =",
    "a b",
    "ab c",
    "▁ a",
    "\u{e9} t",
    "▁ \u{e9}t",
    "x y",
    "▁ xy",
];

/// How the space before the first word comes about.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "not every suite that shares this module uses both")]
pub enum Style {
    /// `Prepend` and `Replace` normalizers.
    Prepend,
    /// A `Metaspace` pre-tokenizer that does not split.
    Metaspace,
}

/// A `tokenizer.json` of the kind of Llama-2's: no pre-tokenizer that splits, byte fallback, a space before each text.
pub fn sentencepiece_json(style: Style) -> Vec<u8> {
    let mut vocab = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    };
    ["<unk>", "<s>", "</s>"].iter().for_each(|token| add((*token).to_owned()));
    (0..=255u8).for_each(|b| add(format!("<0x{b:02X}>")));
    ('!'..='~').chain(['▁', 'é', '日']).for_each(|c| add(c.to_string()));
    MERGES.iter().for_each(|merge| add(merge.replace(' ', "")));
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let (normalizer, pre_tokenizer) = match style {
        Style::Prepend => (
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]}),
            Value::Null,
        ),
        Style::Metaspace => (
            Value::Null,
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
        ),
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                  "merges": MERGES},
    });
    serde_json::to_vec(&file).expect("JSON")
}

/// The tokenizer of [`sentencepiece_json`].
pub fn sentencepiece(style: Style) -> Tokenizer {
    Tokenizer::from_bytes(sentencepiece_json(style), None).expect("a valid tokenizer")
}
