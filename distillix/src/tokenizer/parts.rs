//! What a `tokenizer.json` says about normalising, pre-tokenizing and decoding, and the changes to it that make
//! encoding in pieces lossless.

use super::SPACE_MARK;
use serde_json::Value;

/// How tokens become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// Every character of a token stands for one byte (GPT-2).
    ByteLevel,
    /// SentencePiece style: `▁` is a space, `<0x0A>` a byte if `byte_fallback`.
    Marked { byte_fallback: bool },
    /// Anything else: tokens are decoded one by one by the library.
    Other,
}

impl Decoder {
    pub(super) fn read(json: &Value) -> Self {
        let mut kinds = Vec::new();
        steps(&json["decoder"], "decoders", &mut |step| kinds.push(step.clone()));
        if kinds.len() == 1 && kind(&kinds[0]) == "ByteLevel" {
            return Self::ByteLevel;
        }
        let (mut marked, mut byte_fallback) = (false, false);
        for step in &kinds {
            match kind(step) {
                "Metaspace" if step["replacement"].as_str() == Some("\u{2581}") => marked = true,
                "Replace" if replaces(step, SPACE_MARK, " ") => marked = true,
                "ByteFallback" => byte_fallback = true,
                "Fuse" => {}
                "Strip" if step["content"].as_str() == Some(" ") && step["stop"].as_u64() == Some(0) => {}
                _ => return Self::Other,
            }
        }
        if marked { Self::Marked { byte_fallback } } else { Self::Other }
    }
}

/// Removes whatever puts a prefix before each encoded string, and returns the prefix.
///
/// `ByteLevel`'s `add_prefix_space` is switched off for good: its decoder does not take the space away again.
pub(super) fn take_dummy_prefix(json: &mut Value) -> Option<String> {
    let mut prefix = None;
    if kind(&json["normalizer"]) == "Prepend" {
        prefix = json["normalizer"]["prepend"].as_str().map(str::to_owned);
        json["normalizer"] = Value::Null;
    } else if let Some(list) = json["normalizer"].get_mut("normalizers").and_then(Value::as_array_mut) {
        list.retain(|step| {
            if kind(step) == "Prepend" {
                prefix = step["prepend"].as_str().map(str::to_owned);
            }
            kind(step) != "Prepend"
        });
    }
    edit_steps(&mut json["pre_tokenizer"], "pretokenizers", &mut |step| match kind(step) {
        "ByteLevel" => step["add_prefix_space"] = Value::Bool(false),
        "Metaspace" => {
            let scheme = step["prepend_scheme"].as_str().unwrap_or("always").to_owned();
            if scheme != "never" && step["add_prefix_space"] != Value::Bool(false) {
                prefix = step["replacement"].as_str().map(str::to_owned);
            }
            step["prepend_scheme"] = Value::from("never");
            if let Some(map) = step.as_object_mut() {
                map.shift_remove("add_prefix_space");
            }
        }
        _ => {}
    });
    prefix.filter(|prefix| !prefix.is_empty())
}

/// Dropout would make ids random, truncation and padding would change them.
pub(super) fn remove_randomness_and_padding(json: &mut Value) {
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    if json["model"].get("dropout").is_some() {
        json["model"]["dropout"] = Value::Null;
    }
}

/// The `type` of a step, empty if there is none.
pub(super) fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("")
}

/// True for a `Replace` step of one character by a text.
pub(super) fn replaces(step: &Value, from: char, to: &str) -> bool {
    let mut buffer = [0; 4];
    step["pattern"]["String"].as_str() == Some(from.encode_utf8(&mut buffer))
        && step["content"].as_str() == Some(to)
}

/// Calls `visit` on a step, or on each step of a `Sequence` whose list is called `list`.
pub(super) fn steps(step: &Value, list: &str, visit: &mut impl FnMut(&Value)) {
    match step[list].as_array() {
        Some(inner) => inner.iter().for_each(|step| steps(step, list, visit)),
        None if step.is_null() => {}
        None => visit(step),
    }
}

fn edit_steps(step: &mut Value, list: &str, visit: &mut impl FnMut(&mut Value)) {
    if step.is_null() {
        return;
    }
    match step.get_mut(list).and_then(Value::as_array_mut) {
        Some(inner) => inner.iter_mut().for_each(|step| edit_steps(step, list, visit)),
        None => visit(step),
    }
}
