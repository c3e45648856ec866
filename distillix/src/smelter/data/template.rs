//! Chat templates: Jinja, in the form that Hugging Face tokenizers carry.

use crate::tokenizer::{Segment, Tokenizer};
use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

/// The template used when a config names none.
pub const DEFAULT: &str = "\
{% for message in messages %}
{% if message.role == 'assistant' %}
### Response:
{{ message.content }}{{ eos_token }}
{% elif message.role == 'system' %}
{{ message.content }}

{% else %}
### Instruction:
{{ message.content }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}
";

/// Encloses the number of a message in the place of its content. Private use, so no template looks for them.
const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, …
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A run of a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text, and whether it is trained on.
    Text(String, bool),
    /// A control token of the template, and whether it is trained on.
    Token(u32, bool),
}

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    source: String,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// With line and reason, when it is not valid Jinja.
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers renders chat templates.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|error| anyhow!("the template is not valid: {error}"))?;
        Ok(Self { environment, source: source.to_owned() })
    }

    /// The template's text, as kept in a run folder.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation. Control tokens written in the template become tokens; those written in a message stay text.
    /// Trained on are the assistant's contents and a control token that the template puts right after one.
    ///
    /// # Errors
    /// When the template fails, or leaves out an assistant's content.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<Piece>> {
        ensure!(!messages.is_empty(), "there are no messages");
        let hidden: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(index, m)| Message { role: m.role.clone(), content: format!("{OPEN}{index}{CLOSE}") })
            .collect();
        let (mut prompt, mut response) = (None, None);
        if let [first, second] = hidden.as_slice()
            && second.role == "assistant"
        {
            (prompt, response) = (Some(&first.content), Some(&second.content));
        }
        let turns: Vec<Value> =
            hidden.iter().map(|m| context! { role => &m.role, content => &m.content }).collect();
        let template = self.environment.get_template("chat")?;
        let text = template
            .render(context! {
                messages => turns, prompt, response, add_generation_prompt,
                bos_token => tokenizer.name(tokenizer.bos()), eos_token => tokenizer.name(tokenizer.eos()),
            })
            .map_err(|error| anyhow!("the template fails on this conversation: {error}"))?;
        self.pieces(tokenizer, messages, &text)
    }

    fn pieces(&self, tokenizer: &Tokenizer, messages: &[Message], text: &str) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut seen = vec![false; messages.len()];
        let mut after_answer = false;
        for (index, part) in text.split(OPEN).enumerate() {
            let literal = if index == 0 {
                part
            } else {
                let (number, literal) =
                    part.split_once(CLOSE).context("the template cuts a message's content")?;
                let at: usize = number.parse().context("the template changes a message's content")?;
                let message = messages.get(at).context("the template changes a message's content")?;
                seen[at] = true;
                after_answer = message.role == "assistant";
                push_text(&mut pieces, &message.content, after_answer);
                literal
            };
            for segment in tokenizer.segments(literal) {
                match segment {
                    Segment::Text(text) => push_text(&mut pieces, text, false),
                    Segment::Token(id) => pieces.push(Piece::Token(id, after_answer)),
                }
                after_answer = false;
            }
        }
        for (message, seen) in messages.iter().zip(seen) {
            if message.role == "assistant" && !seen {
                bail!("the template leaves out the assistant's answer");
            }
        }
        Ok(pieces)
    }

    /// The ids of a conversation up to where the assistant answers, BOS included: the prompt of a chat.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let pieces = self.render(tokenizer, messages, true)?;
        Ok(encode_pieces(tokenizer, &pieces)?.0)
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, trained: bool) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        // One text to the tokenizer, as it is when a prompt is encoded.
        Some(Piece::Text(last, same)) if *same == trained => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned(), trained)),
    }
}

/// The ids of pieces, BOS before them, and which ids are trained on.
pub(super) fn encode_pieces(tokenizer: &Tokenizer, pieces: &[Piece]) -> Result<(Vec<u32>, Vec<bool>)> {
    let (mut ids, mut trained) = (vec![tokenizer.bos()], vec![false]);
    let mut first = true;
    for (index, piece) in pieces.iter().enumerate() {
        let flag = match piece {
            // The template writes BOS itself.
            Piece::Token(id, _) if index == 0 && *id == tokenizer.bos() => continue,
            Piece::Token(id, flag) => {
                ids.push(*id);
                *flag
            }
            Piece::Text(text, flag) => {
                let encode = if std::mem::take(&mut first) {
                    Tokenizer::encode_document
                } else {
                    Tokenizer::encode_piece
                };
                ids.extend(encode(tokenizer, text)?);
                *flag
            }
        };
        trained.resize(ids.len(), flag);
    }
    Ok((ids, trained))
}
