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
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a teacher is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Names it in the output; one is made of its content if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
