//! Prompts: what teachers are asked.
//!
//! * [`mod@file`] reads them; [`builtin`] are our own, with variants without end.
//! * [`code`] makes them of code, [`evolve`] of prompts, by a teacher.

mod bug;
pub mod builtin;
pub mod code;
pub mod evolve;
pub mod file;

use super::language::Language;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// What a teacher is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Names it in the output; one is made of its content if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    pub id: Option<String>,
    /// The text.
    pub prompt: String,
    /// Code that is run after the answer's, and fails if the answer is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<String>,
    /// Programming language of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// All other keys, which the output repeats.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Many sets number their records.
fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(D::Error::custom("`id` is neither a text nor a number")),
    }
}

/// What our tasks say where the answer needs words that are no chatter around its code.
const ASKS_FOR_WORDS: [&str; 6] = [
    "xplain",
    "ay in one sentence",
    "First say",
    "After the code,",
    "say what you assume",
    "say which parts",
];

/// The language of the answer to a task of ours: that of its code or, where words are to stay and no tests want the code alone,
/// Markdown.
fn language_of_answer(language: Language, task: &str, has_tests: bool) -> String {
    let words = ASKS_FOR_WORDS.iter().any(|phrase| task.contains(phrase)) && !task.contains("in a comment");
    if words && !has_tests { "markdown".to_owned() } else { language.name().to_owned() }
}

/// The name of a language in prose.
fn title(language: Language) -> &'static str {
    match language {
        Language::Python => "Python",
        Language::Rust => "Rust",
        Language::JavaScript => "JavaScript",
        Language::TypeScript => "TypeScript",
        Language::Go => "Go",
        Language::Java => "Java",
        Language::C => "C",
        Language::Cpp => "C++",
        Language::Bash => "Bash",
    }
}
