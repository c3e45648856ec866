//! The record of a set: what a line of JSONL, or a row of Parquet, holds.

use crate::smelter::data::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One example of a set. It has one of three bodies: `text`, `messages`, or `prompt` with `response`.
///
/// Absent fields are not written. Fields that the foundry does not know are kept as they are, in `extra`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Names the record within its set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Code or prose that is trained on as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// What the teacher was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What the teacher answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The teacher, without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The teacher's model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Which of several answers to the prompt this is, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// Why the teacher stopped: `stop`, or `length` where it ran into its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// Programming language, by a name of [`Language`](super::language::Language) or any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Code that is run after the body's, and fails if the body's is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests: Option<String>,
    /// Where the record comes from: a file, with a line or the path within an archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What each check said, by the name of the check.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, Value>,
    /// Ranges `[start, end)` of characters (not bytes) of the [`body`](Record::body) that make good middles of fill-ins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fim_spans: Vec<(usize, usize)>,
    /// All other fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Record {
    /// A record of `text`.
    pub fn text(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), text: Some(text.into()), ..Self::default() }
    }

    /// A record of a prompt and its response.
    pub fn answer(id: impl Into<String>, prompt: impl Into<String>, response: impl Into<String>) -> Self {
        let (prompt, response) = (Some(prompt.into()), Some(response.into()));
        Self { id: id.into(), prompt, response, ..Self::default() }
    }

    /// What is learned from the record: the text, the response, or the last message of the assistant.
    pub fn body(&self) -> Option<&str> {
        let last = || self.messages.as_ref()?.iter().rfind(|message| message.role == "assistant");
        self.text.as_deref().or(self.response.as_deref()).or_else(|| last().map(|m| m.content.as_str()))
    }

    /// The body, to change it.
    pub fn body_mut(&mut self) -> Option<&mut String> {
        if self.text.is_some() {
            return self.text.as_mut();
        }
        if self.response.is_some() {
            return self.response.as_mut();
        }
        let last = self.messages.as_mut()?.iter_mut().rfind(|message| message.role == "assistant");
        last.map(|message| &mut message.content)
    }

    /// What is trained on beside the body, to change it: the prompt and the other messages.
    pub fn texts_beside_the_body(&mut self) -> impl Iterator<Item = &mut String> {
        let is_answer = |message: &Message| message.role == "assistant";
        let messages = self.messages.as_deref_mut().unwrap_or_default();
        let body = match (&self.text, &self.response) {
            (None, None) => messages.iter().rposition(is_answer),
            _ => None,
        };
        let beside = messages.iter_mut().enumerate().filter(move |(at, _)| Some(*at) != body);
        beside.map(|(_, message)| &mut message.content).chain(&mut self.prompt)
    }

    /// True if the body is what a teacher said, which may be chatter, and not a text that stands for itself.
    pub fn is_answer(&self) -> bool {
        self.text.is_none()
    }

    /// All texts of the record in order: what a reader of it would see.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let messages = self.messages.iter().flatten().map(|message| message.content.as_str());
        [&self.text, &self.prompt, &self.response].into_iter().filter_map(Option::as_deref).chain(messages)
    }

    /// The record as one line of JSON, with its newline.
    ///
    /// # Errors
    /// Those of serde_json, which has none for records.
    pub fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_what_is_not_known() {
        let line = r#"{"id":"a","prompt":"p","response":"é\n","checks":{"parse":"ok"},"fim_spans":[[0,1]],"stars":5}"#;
        let record: Record = serde_json::from_str(line).expect("parses");
        assert_eq!((record.body(), record.is_answer()), (Some("é\n"), true));
        assert_eq!(record.extra["stars"], 5);
        assert_eq!(String::from_utf8(record.to_line().expect("writes")).expect("UTF-8"), format!("{line}\n"));
        assert!(
            Record::text("b", "x").to_line().is_ok_and(|line| line == b"{\"id\":\"b\",\"text\":\"x\"}\n")
        );
        let null: Record = serde_json::from_str(r#"{"text":null,"response":"r"}"#).expect("parses");
        assert_eq!(null.body(), Some("r"));
    }

    #[test]
    fn the_body_of_a_conversation_is_the_last_answer() {
        let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},
            {"role":"user","content":"again"},{"role":"assistant","content":"b"},{"role":"user","content":"thanks"}]}"#;
        let mut record: Record = serde_json::from_str(line).expect("parses");
        assert_eq!(record.body(), Some("b"));
        record.body_mut().expect("has one").push('!');
        assert_eq!(record.texts().collect::<Vec<_>>(), ["q", "a", "again", "b!", "thanks"]);
        assert_eq!(record.texts_beside_the_body().collect::<Vec<_>>(), ["q", "a", "again", "thanks"]);
    }
}
