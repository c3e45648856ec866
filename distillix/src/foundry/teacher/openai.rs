//! The protocol of OpenAI's API, which vLLM, llama.cpp, Ollama and most hosted services speak too: `/chat/completions`,
//! `/completions` and `/models` below a base address.

use super::http::{Auth, Http, too_large};
use super::{
    Answer, Failure, FailureKind, Offer, Request, Secret, Spent, Teacher, checked, counted, most_bytes,
};
use crate::foundry::config::{Api, Price, TeacherConfig};
use anyhow::Result;
use futures::future::BoxFuture;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of a stream is waited for whose answer is whole.
const END: Duration = Duration::from_millis(100);

/// The two names of the longest answer in a request: newer models of OpenAI's refuse the older one.
const LIMIT: &str = "max_tokens";
const NEWER_LIMIT: &str = "max_completion_tokens";

#[derive(Debug)]
pub(super) struct OpenAi {
    http: Http,
    model: String,
    api: Api,
    stream: bool,
    extra: Map<String, Value>,
    /// The server wants the longest answer under the newer of its two names.
    newer_limit: AtomicBool,
}

impl OpenAi {
    pub(super) fn new(config: &TeacherConfig, connect_timeout: Duration) -> Result<Self> {
        let own = super::base_url(&config.url)?.host_str() == Some("api.openai.com");
        let auth = match Secret::of(config, own.then_some("OPENAI_API_KEY"))? {
            Some(secret) => Auth::Bearer(secret),
            None => Auth::None,
        };
        Ok(OpenAi {
            http: Http::new(&config.url, auth, connect_timeout)?,
            model: config.model.clone(),
            api: config.api,
            stream: config.stream,
            extra: config.extra.clone(),
            newer_limit: AtomicBool::new(false),
        })
    }

    fn path(&self) -> &'static str {
        match self.api {
            Api::Chat => "/chat/completions",
            Api::Completions => "/completions",
        }
    }

    fn body(&self, request: &Request) -> Value {
        let sampling = &request.sampling;
        let mut body = json!({
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            LIMIT: sampling.max_tokens,
        });
        match self.api {
            Api::Chat => body["messages"] = json!(request.messages),
            Api::Completions => {
                let texts: Vec<&str> = request.messages.iter().map(|m| m.content.as_str()).collect();
                body["prompt"] = Value::from(texts.join("\n\n"));
            }
        }
        if let Some(seed) = sampling.seed {
            body["seed"] = Value::from(seed);
        }
        if !sampling.stop.is_empty() {
            body["stop"] = json!(sampling.stop);
        }
        match (self.api, sampling.top_logprobs) {
            (_, 0) => {}
            (Api::Chat, k) => {
                body["logprobs"] = Value::Bool(true);
                body["top_logprobs"] = Value::from(k);
            }
            (Api::Completions, k) => body["logprobs"] = Value::from(k),
        }
        if self.stream {
            body["stream"] = Value::Bool(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        if let Value::Object(keys) = &mut body {
            for (key, value) in &self.extra {
                if value.is_null() {
                    keys.shift_remove(key);
                } else {
                    keys.insert(key.clone(), value.clone());
                }
            }
            if self.newer_limit.load(Ordering::Relaxed)
                && let Some(limit) = keys.shift_remove(LIMIT)
            {
                keys.entry(NEWER_LIMIT).or_insert(limit);
            }
        }
        body
    }

    /// Asks, and learns from a refusal of `max_tokens` that names `max_completion_tokens`.
    async fn exchange(&self, request: &Request, longest: u32) -> Result<Answer, Failure> {
        let body = self.body(request);
        let limit = most_bytes(longest, request.sampling.top_logprobs);
        let answer =
            if self.stream { self.streamed(&body, limit).await } else { self.whole(&body, limit).await };
        answer.map_err(|failure| {
            let again = failure.kind == FailureKind::Rejected
                && failure.message.contains(NEWER_LIMIT)
                && body.get(LIMIT).is_some();
            if again {
                self.newer_limit.store(true, Ordering::Relaxed);
            }
            Failure { again, ..failure }
        })
    }

    async fn whole(&self, body: &Value, limit: usize) -> Result<Answer, Failure> {
        let response = self.http.send(Method::POST, self.path(), Some(body), "application/json").await?;
        let mut value = self.http.json(response, limit).await?;
        self.error_within(&value)?;
        let spent = counted(&value);
        let Some(choice) = value.pointer_mut("/choices/0").map(Value::take) else {
            return Err(Failure::new(FailureKind::BadAnswer, "the answer has no choices").spent(spent));
        };
        let text = match self.api {
            Api::Chat => choice.pointer("/message/content"),
            Api::Completions => choice.get("text"),
        };
        let text = text.map(text_of).unwrap_or_default();
        Ok(Answer {
            text: checked(text, spent)?,
            finish: finish(&choice).unwrap_or("stop").to_owned(),
            usage: spent.usage(),
            cost: spent.cost(),
            logprobs: choice.get("logprobs").filter(|value| !value.is_null()).cloned(),
        })
    }

    async fn streamed(&self, body: &Value, limit: usize) -> Result<Answer, Failure> {
        let mut response = self.http.send(Method::POST, self.path(), Some(body), "text/event-stream").await?;
        self.http.content_type(&response, "event-stream")?;
        let mut pieces = Pieces::default();
        let (mut line, mut size) = (Vec::new(), 0);
        while !pieces.done
            && let Some(chunk) = response.chunk().await.map_err(|error| self.http.failure(&error))?
        {
            size += chunk.len();
            if size > limit {
                return Err(too_large(limit));
            }
            for byte in chunk {
                if byte == b'\n' {
                    self.event(&line, &mut pieces)?;
                    line.clear();
                } else {
                    line.push(byte);
                }
            }
        }
        if pieces.done {
            // A connection whose response was read to its end can be used again; a server that does not end it is not waited for.
            let _ = tokio::time::timeout(END, response.chunk()).await;
        } else {
            self.event(&line, &mut pieces)?;
        }
        let spent = pieces.spent;
        // Without either, the connection ended in the middle.
        if !pieces.done && pieces.finish.is_none() {
            let message = "the stream of the answer ended early";
            return Err(Failure::new(FailureKind::Connection, message).spent(spent));
        }
        let logprobs = (!pieces.logprobs.is_empty()).then(|| json!({"content": pieces.logprobs}));
        Ok(Answer {
            // The pieces of a text of ours may come one by one.
            text: checked(self.http.blot(&pieces.text), spent)?,
            finish: pieces.finish.unwrap_or_else(|| "stop".to_owned()),
            usage: spent.usage(),
            cost: spent.cost(),
            logprobs: pieces.legacy_logprobs.or(logprobs),
        })
    }

    /// Takes in one line of a stream of events.
    fn event(&self, line: &[u8], pieces: &mut Pieces) -> Result<(), Failure> {
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return Ok(()) };
        if data == b"[DONE]" {
            pieces.done = true;
            return Ok(());
        }
        let value = self.http.parse(data).map_err(|error| {
            Failure::new(FailureKind::BadAnswer, format!("a piece of the answer is not JSON: {error}"))
        })?;
        self.error_within(&value)?;
        pieces.add(&value, self.api);
        Ok(())
    }

    /// The error that a response of status 200 may hold.
    fn error_within(&self, value: &Value) -> Result<(), Failure> {
        let Some(error) = value.get("error").filter(|error| !error.is_null()) else { return Ok(()) };
        let message = error
            .get("message")
            .or(Some(error))
            .and_then(Value::as_str)
            .unwrap_or("an error without a message");
        let message = format!("the server answered with an error: {}", message);
        let code = error.get("code").or_else(|| error.get("status"));
        let status = code.and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        let kind = error.get("type").and_then(Value::as_str).or_else(|| code?.as_str()).unwrap_or("");
        let failure = match (status, kind) {
            (Some(status @ 400..600), _) => Failure::of_status(status as u16, &message),
            (_, kind) if kind.contains("rate_limit") => Failure::new(FailureKind::RateLimited, message),
            (_, "invalid_request_error" | "context_length_exceeded") => {
                Failure::new(FailureKind::Rejected, message)
            }
            (_, "authentication_error" | "insufficient_quota") => {
                Failure::new(FailureKind::Unauthorized, message)
            }
            _ => Failure::new(FailureKind::ServerError, message),
        };
        // A server that took the request may have worked on it.
        Err(failure.spent(counted(value)))
    }
}

/// A streamed answer as far as it has come.
#[derive(Default)]
struct Pieces {
    text: String,
    finish: Option<String>,
    spent: Spent,
    logprobs: Vec<Value>,
    legacy_logprobs: Option<Value>,
    done: bool,
}

impl Pieces {
    fn add(&mut self, value: &Value, api: Api) {
        if let spent @ Spent::Known(..) = counted(value) {
            self.spent = spent;
        }
        let Some(choice) = value.pointer("/choices/0") else { return };
        let text = match api {
            Api::Chat => choice.pointer("/delta/content"),
            Api::Completions => choice.get("text"),
        };
        self.text.push_str(text.and_then(Value::as_str).unwrap_or(""));
        if let Some(finish) = finish(choice) {
            self.finish = Some(finish.to_owned());
        }
        let Some(logprobs) = choice.get("logprobs").filter(|value| !value.is_null()) else { return };
        match logprobs.get("content").and_then(Value::as_array) {
            Some(positions) => self.logprobs.extend(positions.iter().cloned()),
            None => self.add_legacy_logprobs(logprobs),
        }
    }

    /// Plain completions have parallel lists instead of one list of positions.
    fn add_legacy_logprobs(&mut self, piece: &Value) {
        let Some(Value::Object(all)) = &mut self.legacy_logprobs else {
            self.legacy_logprobs = Some(piece.clone());
            return;
        };
        for (key, values) in piece.as_object().into_iter().flatten() {
            match (all.get_mut(key), values) {
                (Some(Value::Array(all)), Value::Array(values)) => all.extend(values.iter().cloned()),
                (None, values) => {
                    all.insert(key.clone(), values.clone());
                }
                _ => {}
            }
        }
    }
}

impl Teacher for OpenAi {
    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, Failure>> {
        Box::pin(async {
            let value = self.http.call(Method::GET, "/models", None).await?;
            let list = value.get("data").or_else(|| value.get("models")).and_then(Value::as_array);
            let list = list
                .ok_or_else(|| Failure::new(FailureKind::BadAnswer, "the list of models has another form"))?;
            Ok(list.iter().filter_map(offer).collect())
        })
    }

    fn ask<'a>(&'a self, request: &'a Request, longest: u32) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.exchange(request, longest))
    }
}

fn offer(model: &Value) -> Option<Offer> {
    let name = model.get("id").or_else(|| model.get("name"))?.as_str()?;
    // OpenRouter's form: the price of one token, as a text.
    let price = |key: &str| -> Option<f64> {
        let price = model.get("pricing")?.get(key)?;
        let price = price.as_f64().or_else(|| price.as_str()?.parse().ok())?;
        (price.is_finite() && price >= 0.0).then_some(price * 1e6)
    };
    let context = ["/context_length", "/max_model_len", "/meta/n_ctx"];
    Some(Offer {
        model: name.to_owned(),
        price: price("prompt").zip(price("completion")).map(|(input, output)| Price { input, output }),
        context: context.iter().find_map(|place| model.pointer(place)?.as_u64()),
        output: None,
    })
}

fn finish(choice: &Value) -> Option<&str> {
    choice.get("finish_reason").and_then(Value::as_str)
}

/// A text, or a list of parts of which some are texts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}
