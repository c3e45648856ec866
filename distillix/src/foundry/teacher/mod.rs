//! Teachers: servers that answer prompts. A protocol is one file with one [`Teacher`], and one line in [`connect`].

mod failure;
mod http;
mod openai;
mod opencode;
mod secret;

pub use failure::{Failure, FailureKind, Spent};
pub use http::base_url;
pub use secret::Secret;

use super::config::{Price, TeacherConfig, TeacherKind};
use anyhow::Result;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// A server that answers prompts with one model.
pub trait Teacher: Send + Sync {
    /// The models that the server offers.
    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, Failure>>;

    /// Asks once, for an answer of at most `longest` tokens. The caller bounds the time; a future that is dropped stops the
    /// server's work where the protocol can.
    fn ask<'a>(&'a self, request: &'a Request, longest: u32) -> BoxFuture<'a, Result<Answer, Failure>>;

    /// Waits for what is still to be tidied up on the server.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Makes the teacher that a config describes. Nothing is sent yet.
///
/// # Errors
/// When its credentials cannot be read or its address is none.
pub fn connect(config: &TeacherConfig, connect_timeout: Duration) -> Result<Box<dyn Teacher>> {
    Ok(match config.kind {
        TeacherKind::Openai => Box::new(openai::OpenAi::new(config, connect_timeout)?),
        TeacherKind::Opencode => Box::new(opencode::OpenCode::new(config, connect_timeout)?),
    })
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the role `user`.
    pub fn user(content: impl Into<String>) -> Self {
        Message { role: "user".to_owned(), content: content.into() }
    }

    /// A message of the role `system`.
    pub fn system(content: impl Into<String>) -> Self {
        Message { role: "system".to_owned(), content: content.into() }
    }
}

/// How an answer is drawn. Part of a request's address in the store, so the order of the fields matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Share of probability that is drawn from.
    pub top_p: f64,
    /// Longest answer in tokens.
    pub max_tokens: u32,
    /// Seed, where the server takes one.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Number of alternatives a position whose log-probabilities are returned; 0 for none.
    pub top_logprobs: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// How the answer is drawn.
    pub sampling: Sampling,
}

impl Request {
    /// No tokenizer makes more tokens of the messages than they have bytes; the template around each message is the
    /// caller's to add.
    pub fn prompt_bytes(&self) -> u64 {
        self.messages.iter().map(|m| m.content.len() as u64 + 16).sum()
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
}

impl Usage {
    /// More tokens than any request has.
    const TOO_MANY: u64 = 1 << 40;

    /// These counts, unless they are a mistake of the server's.
    fn checked(input: u64, output: u64) -> Option<Self> {
        (input.max(output) < Self::TOO_MANY).then_some(Usage { input, output })
    }
}

/// What a server counted, in the form of OpenAI's API: `usage` of a whole answer, of its last piece or of an error.
fn counted(value: &Value) -> Spent {
    let count = |key: &str| value.get("usage")?.get(key)?.as_u64();
    let counts = count("prompt_tokens").zip(count("completion_tokens"));
    match counts.and_then(|(input, output)| Usage::checked(input, output)) {
        Some(usage) => {
            let cost = value.pointer("/usage/cost").and_then(Value::as_f64).filter(|cost| *cost >= 0.0);
            Spent::Known(usage, cost)
        }
        None => Spent::Unknown,
    }
}

/// The most bytes that an answer of so many tokens can have: a token is a few bytes, with what JSON and events put around each.
fn most_bytes(tokens: u32, top_logprobs: u32) -> usize {
    (1 << 20) + tokens as usize * (1024 + 160 * top_logprobs as usize)
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Why it ended: `stop`, `length`, … as the server says.
    pub finish: String,
    /// Tokens, where the server counts.
    pub usage: Option<Usage>,
    /// What it cost, where the server says.
    pub cost: Option<f64>,
    /// Log-probabilities in the server's form.
    pub logprobs: Option<Value>,
}

/// A model that a server has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Its name, as in `--teacher`.
    pub model: String,
    /// What it costs, if the server knows.
    pub price: Option<Price>,
    /// Most tokens of prompt and answer together.
    pub context: Option<u64>,
    /// Most tokens of an answer, where the server sets the limit.
    pub output: Option<u64>,
}

/// A text of a server's that is safe to print: short, on one line, no control characters.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > 240 {
            let end = (0..=240).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}

/// The text of an answer, if it is one.
///
/// # Errors
/// When it is empty or has control characters other than white space.
fn checked(text: String, spent: Spent) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::new(FailureKind::Empty, "the answer is empty").spent(spent));
    }
    let allowed = ['\n', '\t', '\r', '\u{c}'];
    if let Some(c) = text.chars().find(|c| c.is_control() && !allowed.contains(c)) {
        let message = format!("the answer has the control character U+{:04X}", u32::from(c));
        return Err(Failure::new(FailureKind::ControlCharacters, message).spent(spent));
    }
    Ok(text)
}
