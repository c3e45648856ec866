//! An [OpenCode](https://opencode.ai) server, 1.18 or newer: one fresh session a prompt, deleted afterwards.
//!
//! A message takes no sampling parameters; temperature and the longest answer are settings of the server's agent and model.

use super::http::{Auth, Http};
use super::{
    Answer, Failure, FailureKind, Offer, Request, Secret, Spent, Teacher, Usage, checked, most_bytes,
};
use crate::foundry::config::{Price, TeacherConfig};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

/// The agent that answers, if the server has one of this name and the config names none: the default agent's instructions
/// are about editing files, and long.
const AGENT: &str = "teacher";
/// The user that the server expects beside `OPENCODE_SERVER_PASSWORD`, unless `OPENCODE_SERVER_USERNAME` is set.
const USER: &str = "opencode";

#[derive(Debug)]
pub(super) struct OpenCode {
    http: Http,
    provider: String,
    model: String,
    asked_agent: Option<String>,
    agent: OnceCell<Option<String>>,
    /// Deletions of sessions that are under way.
    tidying: Arc<Mutex<JoinSet<()>>>,
}

impl OpenCode {
    pub(super) fn new(config: &TeacherConfig, connect_timeout: Duration) -> Result<Self> {
        let auth = match Secret::of(config, Some("OPENCODE_SERVER_PASSWORD"))? {
            Some(secret) => {
                let user = std::env::var("OPENCODE_SERVER_USERNAME").ok().filter(|user| !user.is_empty());
                Auth::Basic(user.unwrap_or_else(|| USER.to_owned()), secret)
            }
            None => Auth::None,
        };
        // Without a model, only the list of models can be asked for.
        let (provider, model) = match config.model.as_str() {
            "" => ("", ""),
            model => model.split_once('/').context("an opencode model is written PROVIDER/MODEL")?,
        };
        Ok(OpenCode {
            http: Http::new(&config.url, auth, connect_timeout)?,
            provider: provider.to_owned(),
            model: model.to_owned(),
            asked_agent: config.agent.clone(),
            agent: OnceCell::new(),
            tidying: Arc::default(),
        })
    }

    /// The agent to name in a message. An unknown one is a 500 without a reason, so the list is looked at first.
    async fn agent(&self) -> Result<Option<&str>, Failure> {
        let find = || async {
            let list = match self.http.call(Method::GET, "/agent", None).await {
                Ok(list) => list,
                // A server without that list still may have the agent.
                Err(failure)
                    if failure.kind == FailureKind::BadAnswer || failure.kind == FailureKind::NotFound =>
                {
                    return Ok(self.asked_agent.clone());
                }
                Err(failure) => return Err(failure),
            };
            let names: Vec<&str> = list
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|agent| agent.get("name")?.as_str())
                .collect();
            match &self.asked_agent {
                Some(asked) if names.contains(&asked.as_str()) => Ok(Some(asked.clone())),
                Some(asked) => {
                    let message =
                        format!("there is no agent {asked:?} on the server, it has {}", names.join(", "));
                    Err(Failure::new(FailureKind::NotFound, message).spent(Spent::Nothing))
                }
                None => Ok(names.contains(&AGENT).then(|| AGENT.to_owned())),
            }
        };
        Ok(self.agent.get_or_try_init(find).await?.as_deref())
    }

    async fn exchange(&self, request: &Request, longest: u32) -> Result<Answer, Failure> {
        let agent = self.agent().await?;
        // Without a title the server asks the model for one.
        let created = self.http.call(Method::POST, "/session", Some(&json!({"title": "distillix"}))).await?;
        let id = created.get("id").and_then(Value::as_str).ok_or_else(|| {
            Failure::new(FailureKind::BadAnswer, "the server made a session without an id")
                .spent(Spent::Nothing)
        })?;
        let mut session = Session { teacher: self, id: id.to_owned(), answered: false };
        let (system, rest): (Vec<_>, Vec<_>) = request.messages.iter().partition(|m| m.role == "system");
        let text: Vec<&str> = rest.iter().map(|m| m.content.as_str()).collect();
        let mut body = json!({
            "model": {"providerID": self.provider, "modelID": self.model},
            "tools": {"*": false},
            "parts": [{"type": "text", "text": text.join("\n\n")}],
        });
        if let Some(agent) = agent {
            body["agent"] = Value::from(agent);
        }
        if !system.is_empty() {
            let system: Vec<&str> = system.iter().map(|m| m.content.as_str()).collect();
            body["system"] = Value::from(system.join("\n\n"));
        }
        let path = format!("/session/{}/message", session.id);
        let response = self.http.send(Method::POST, &path, Some(&body), "application/json").await?;
        let reply = self.http.json(response, most_bytes(longest, 0)).await?;
        session.answered = true;
        self.answer(&reply)
    }

    fn answer(&self, reply: &Value) -> Result<Answer, Failure> {
        let Some(info) = reply.get("info").filter(|info| info.is_object()) else {
            return Err(Failure::new(FailureKind::BadAnswer, "the reply has no `info`"));
        };
        let tokens = |key: &str| info.get("tokens")?.get(key)?.as_u64();
        let cache =
            |key: &str| info.pointer(&format!("/tokens/cache/{key}")).and_then(Value::as_u64).unwrap_or(0);
        let usage = tokens("input").zip(tokens("output")).and_then(|(input, output)| {
            let input = input.saturating_add(cache("read")).saturating_add(cache("write"));
            Usage::checked(input, output.saturating_add(tokens("reasoning").unwrap_or(0)))
        });
        let cost = info.get("cost").and_then(Value::as_f64).filter(|cost| *cost >= 0.0);
        let spent = usage.map_or(Spent::Unknown, |usage| Spent::Known(usage, cost));
        if let Some(error) = info.get("error").filter(|error| !error.is_null()) {
            // A failed teacher counts nothing, though its provider may.
            let spent = if usage.is_some_and(|u| u.input + u.output > 0) { spent } else { Spent::Unknown };
            return Err(self.failed(error).spent(spent));
        }
        let parts = reply.get("parts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let texts = parts.iter().filter(|part| part.get("type").and_then(Value::as_str) == Some("text"));
        let texts: Vec<&str> = texts.filter_map(|part| part.get("text")?.as_str()).collect();
        Ok(Answer {
            text: checked(texts.join("\n"), spent)?,
            finish: info.get("finish").and_then(Value::as_str).unwrap_or("stop").to_owned(),
            usage,
            cost,
            logprobs: None,
        })
    }

    /// The failure that `info.error` stands for.
    fn failed(&self, error: &Value) -> Failure {
        let name = error.get("name").and_then(Value::as_str).unwrap_or("error");
        let data = error.get("data").unwrap_or(error);
        let message = data.get("message").and_then(Value::as_str).unwrap_or("no message");
        let message = format!("{name}: {message}");
        let status =
            data.get("statusCode").and_then(Value::as_u64).filter(|status| (400..600).contains(status));
        let kind = match (name, status, data.get("isRetryable").and_then(Value::as_bool)) {
            ("ProviderAuthError", ..) => FailureKind::Unauthorized,
            ("ContextOverflowError", ..) => FailureKind::Rejected,
            (_, Some(status), _) => return Failure::of_status(status as u16, &message),
            (_, None, Some(false)) => FailureKind::Rejected,
            _ => FailureKind::ServerError,
        };
        Failure::new(kind, message)
    }
}

/// A session that is deleted when it is dropped, and stopped first if it may still be at work.
struct Session<'a> {
    teacher: &'a OpenCode,
    id: String,
    answered: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (http, path, answered) =
            (self.teacher.http.clone(), format!("/session/{}", self.id), self.answered);
        let tidy = async move {
            // What cannot be tidied stays on the server and harms nobody.
            if !answered {
                let _ = http.call(Method::POST, &format!("{path}/abort"), None).await;
            }
            let _ = http.call(Method::DELETE, &path, None).await;
        };
        let mut tidying = self.teacher.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        while tidying.try_join_next().is_some() {}
        tidying.spawn_on(tidy, &runtime);
    }
}

impl Teacher for OpenCode {
    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, Failure>> {
        Box::pin(async {
            self.agent().await?;
            let value = self.http.call(Method::GET, "/provider", None).await?;
            let connected = value.get("connected").and_then(Value::as_array);
            let is_connected =
                |id: &str| connected.is_none_or(|list| list.iter().any(|name| name.as_str() == Some(id)));
            let list = value.get("all").and_then(Value::as_array);
            let list = list.ok_or_else(|| {
                Failure::new(FailureKind::BadAnswer, "the list of providers has another form")
            })?;
            let mut offers = Vec::new();
            for provider in list {
                let Some(id) = provider.get("id").and_then(Value::as_str).filter(|id| is_connected(id))
                else {
                    continue;
                };
                for (name, model) in provider.get("models").and_then(Value::as_object).into_iter().flatten() {
                    let cost = |key: &str| model.get("cost")?.get(key)?.as_f64().filter(|cost| *cost >= 0.0);
                    let limit = |key: &str| model.get("limit")?.get(key)?.as_u64().filter(|limit| *limit > 0);
                    offers.push(Offer {
                        model: format!("{id}/{name}"),
                        // Models of unknown price are listed as free.
                        price: cost("input")
                            .zip(cost("output"))
                            .filter(|(input, output)| *input > 0.0 || *output > 0.0)
                            .map(|(input, output)| Price { input, output }),
                        context: limit("context"),
                        output: limit("output"),
                    });
                }
            }
            Ok(offers)
        })
    }

    fn ask<'a>(&'a self, request: &'a Request, longest: u32) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.exchange(request, longest))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut tidying =
                std::mem::take(&mut *self.tidying.lock().unwrap_or_else(PoisonError::into_inner));
            // A server that hangs is not waited for.
            let all = async { while tidying.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
            tidying.detach_all();
        })
    }
}
