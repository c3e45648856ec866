//! Control tokens: the start and end of a document, fill-in-the-middle, and whatever else a vocabulary adds.

use super::parts::kind;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The ids of the fill-in-the-middle tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FimTokens {
    /// Stands before the text above the cursor.
    pub prefix: u32,
    /// Stands before the text below the cursor.
    pub suffix: u32,
    /// Stands before the text to fill in.
    pub middle: u32,
    /// Fills the tails of rows; never a target.
    pub pad: u32,
}

impl FimTokens {
    /// True for the four of them.
    pub fn contains(&self, id: u32) -> bool {
        [self.prefix, self.suffix, self.middle, self.pad].contains(&id)
    }
}

/// A part of a template's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Plain text.
    Text(&'a str),
    /// A control token.
    Token(u32),
}

/// Prefix, suffix, middle and pad as the families of code models write them. The first is ours.
const FIM_NAMES: [[&str; 4]; 6] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>", "<|fim_pad|>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|fim_pad|>"],
    ["<PRE>", "<SUF>", "<MID>", "<|fim_pad|>"],
];

const BOS_NAMES: [&str; 6] =
    ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|bos|>", "<｜begin▁of▁sentence｜>"];
const EOS_NAMES: [&str; 9] = [
    "</s>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<eos>",
    "<|eos|>",
    "<｜end▁of▁sentence｜>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
];

/// Names and ids of all tokens of a `tokenizer.json`.
pub(super) struct Vocabulary {
    ids: HashMap<String, u32>,
    len: usize,
}

impl Vocabulary {
    pub(super) fn read(json: &Value) -> Result<Self> {
        let mut ids = HashMap::new();
        let id = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id < 1 << 24)
                .context("an id of the vocabulary is no number below 2^24")
        };
        match &json["model"]["vocab"] {
            Value::Object(map) => {
                for (token, value) in map {
                    ids.insert(token.clone(), id(value)?);
                }
            }
            // Unigram: pairs of token and score, in the order of ids.
            Value::Array(list) => {
                for (id, pair) in list.iter().enumerate() {
                    let token = pair[0].as_str().context("an entry of the vocabulary has no text")?;
                    ids.insert(token.to_owned(), id as u32);
                }
            }
            _ => bail!("it has no `model.vocab`"),
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let content = token["content"].as_str().context("an added token has no `content`")?;
            ids.insert(content.to_owned(), id(&token["id"])?);
        }
        let len = ids.values().max().map_or(0, |id| *id as usize + 1);
        Ok(Self { ids, len })
    }

    /// Largest id plus one.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn first(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| self.ids.get(*name)).copied()
    }
}

/// The FIM tokens, and those among them that must be added (with their ids).
pub(super) fn find_fim(vocabulary: &Vocabulary) -> (FimTokens, Vec<(&'static str, u32)>) {
    let known = |names: &&[&str; 4]| names[..3].iter().all(|name| vocabulary.ids.contains_key(*name));
    let names = FIM_NAMES.iter().find(known).unwrap_or(&FIM_NAMES[0]);
    let mut missing = Vec::new();
    let ids = names.map(|name| {
        vocabulary.ids.get(name).copied().unwrap_or_else(|| {
            let id = (vocabulary.len + missing.len()) as u32;
            missing.push((name, id));
            id
        })
    });
    let [prefix, suffix, middle, pad] = ids;
    (FimTokens { prefix, suffix, middle, pad }, missing)
}

/// Appends control tokens to a `tokenizer.json`.
pub(super) fn add_tokens(json: &mut Value, tokens: &[(&str, u32)]) -> Result<()> {
    if json["added_tokens"].is_null() {
        json["added_tokens"] = Value::Array(Vec::new());
    }
    let list = json["added_tokens"].as_array_mut().context("`added_tokens` is no list")?;
    for (content, id) in tokens {
        list.push(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    Ok(())
}

/// Marks tokens as special wherever the file does not, so that text never produces them.
pub(super) fn mark_special(json: &mut Value, ids: &[u32]) -> Result<()> {
    let list = json["added_tokens"].as_array_mut().context("`added_tokens` is no list")?;
    let mut unlisted = ids.to_vec();
    for token in list.iter_mut() {
        let id = token["id"].as_u64();
        if let Some(at) = unlisted.iter().position(|wanted| Some(u64::from(*wanted)) == id) {
            token["special"] = Value::Bool(true);
            unlisted.swap_remove(at);
        }
        unlisted.retain(|wanted| Some(u64::from(*wanted)) != id);
    }
    // Tokens of the model's own vocabulary: listed as well, they become control tokens.
    let names: Vec<(String, u32)> = match json["model"]["vocab"].as_object() {
        Some(map) => map
            .iter()
            .filter_map(|(name, id)| Some((name.clone(), u32::try_from(id.as_u64()?).ok()?)))
            .filter(|(_, id)| unlisted.contains(id))
            .collect(),
        None => Vec::new(),
    };
    let names: Vec<(&str, u32)> = names.iter().map(|(name, id)| (name.as_str(), *id)).collect();
    add_tokens(json, &names)
}

/// Contents and ids of the special added tokens, longest content first.
pub(super) fn control_tokens(json: &Value) -> Vec<(String, u32)> {
    let mut tokens: Vec<(String, u32)> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|token| token["special"].as_bool() == Some(true))
        .filter_map(|token| Some((token["content"].as_str()?.to_owned(), token["id"].as_u64()? as u32)))
        .filter(|(content, _)| !content.is_empty())
        .collect();
    tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
    tokens
}

/// BOS and EOS: named by `tokenizer_config.json`, put there by the post-processor, or called by a usual name.
/// A vocabulary without BOS starts documents with EOS.
pub(super) fn find_bos_eos(json: &Value, config: &Value, vocabulary: &Vocabulary) -> Result<(u32, u32)> {
    let configured = |key: &str| {
        let value = &config[key];
        let name = value.as_str().or_else(|| value["content"].as_str())?;
        vocabulary.ids.get(name).copied()
    };
    let (first, last) = template_ends(json);
    let by_name = |name: Option<String>| vocabulary.ids.get(&name?).copied();
    let eos = configured("eos_token").or_else(|| by_name(last)).or_else(|| vocabulary.first(&EOS_NAMES));
    let bos = configured("bos_token").or_else(|| by_name(first)).or_else(|| vocabulary.first(&BOS_NAMES));
    match (bos, eos) {
        (bos, Some(eos)) => Ok((bos.unwrap_or(eos), eos)),
        (_, None) => bail!(
            "it has no token that ends a document: put `eos_token` into a tokenizer_config.json beside it, or name the token one of {}",
            EOS_NAMES.join(" ")
        ),
    }
}

/// Names of the special tokens before and after the text in a `TemplateProcessing` post-processor.
fn template_ends(json: &Value) -> (Option<String>, Option<String>) {
    let (mut first, mut last) = (None, None);
    super::parts::steps(&json["post_processor"], "processors", &mut |step| {
        let Some(single) = step["single"].as_array().filter(|_| kind(step) == "TemplateProcessing") else {
            return;
        };
        let name = |piece: Option<&Value>| piece?["SpecialToken"]["id"].as_str().map(str::to_owned);
        first = name(single.first());
        last = name(single.last());
    });
    (first, last)
}

/// Cuts `text` at the leftmost, longest control tokens.
pub(super) fn segments<'a>(text: &'a str, special: &[(String, u32)]) -> Vec<Segment<'a>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let found = special
            .iter()
            .filter_map(|(content, id)| Some((rest.find(content.as_str())?, content.len(), *id)))
            .min_by_key(|(at, len, _)| (*at, usize::MAX - len));
        let Some((at, len, id)) = found else { break };
        if at > 0 {
            parts.push(Segment::Text(&rest[..at]));
        }
        parts.push(Segment::Token(id));
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        parts.push(Segment::Text(rest));
    }
    parts
}
