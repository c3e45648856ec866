//! A server that speaks both protocols, answers the same to the same, counts, and fails as told.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How a request can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    RateLimited,
    ServerError,
    Hang,
    Cut,
    InvalidJson,
    Empty,
    WrongContentType,
    ErrorInside,
    Huge,
    Drip,
    /// A status and a message.
    Status(u16, &'static str),
    /// A 500 after the work was done, with its usage.
    WorkedInVain,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::RateLimited,
        Fault::ServerError,
        Fault::Hang,
        Fault::Cut,
        Fault::InvalidJson,
        Fault::Empty,
        Fault::WrongContentType,
        Fault::ErrorInside,
        Fault::Huge,
        Fault::Drip,
    ];
}

/// Decides about a request: given its text and how often that text came before.
pub type Plan = Box<dyn Fn(&str, u64) -> Option<Fault> + Send + Sync>;

/// An answer to a text, given the model.
type Answer = Box<dyn Fn(&str, &str) -> String + Send + Sync>;

/// What the server does.
pub struct Behaviour {
    pub plan: Plan,
    /// Time that an answer takes.
    pub latency: Duration,
    /// The answer to a text, given the model.
    pub answer: Answer,
    /// A password that is asked for.
    pub password: Option<String>,
    /// What is added to the usage of an answer.
    pub usage: Value,
    /// Most requests in so much time; more are refused until it is over.
    pub rate: Option<(u64, Duration)>,
    /// Streams stay open behind their last event.
    pub lingers: bool,
    /// `max_tokens` is refused, as newer models of OpenAI's do.
    pub newer: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            plan: Box::new(|_, _| None),
            latency: Duration::from_millis(2),
            answer: Box::new(|_, text| code(text)),
            password: None,
            usage: json!({}),
            rate: None,
            lingers: false,
            newer: false,
        }
    }
}

/// A share of the requests fails, in all ways alike, decided by text and count.
pub fn share(percent: u64) -> Plan {
    Box::new(move |text, count| {
        let draw = hash(&(text, count));
        (draw % 100 < percent).then(|| Fault::ALL[(draw / 100 % 10) as usize])
    })
}

pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// An answer that depends on the text alone.
pub fn code(text: &str) -> String {
    format!("def task_{:x}(value):\n    return value + {}\n", hash(&text), text.len())
}

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    /// Requests to a model.
    pub requests: AtomicU64,
    /// Answers sent whole, by text.
    pub answered: Mutex<HashMap<String, u64>>,
    /// Requests by text.
    pub asked: Mutex<HashMap<String, u64>>,
    /// Tokens of all requests, those that failed after work included.
    pub tokens: AtomicU64,
    /// Requests being answered now, and the most there were.
    pub active: AtomicI64,
    pub most_active: AtomicI64,
    /// Sessions made, deleted and stopped; bodies of messages.
    pub sessions: AtomicU64,
    pub deleted: AtomicU64,
    pub aborted: AtomicU64,
    pub messages: Mutex<Vec<Value>>,
    /// Headers of authorization.
    pub authorization: Mutex<Vec<String>>,
    /// When each request to a model came.
    pub times: Mutex<Vec<Instant>>,
    /// Begin of the time that a rate is for, and requests since.
    pub window: Mutex<Option<(Instant, u64)>>,
}

pub struct Mock {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    behaviour: Behaviour,
}

impl Mock {
    /// Serves on a free port until the program ends.
    pub fn start(behaviour: Behaviour) -> Arc<Mock> {
        Mock::serve(behaviour, 0)
    }

    pub fn serve(behaviour: Behaviour, port: u16) -> Arc<Mock> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", port))).unwrap();
        let address = listener.local_addr().unwrap();
        let mock = Arc::new(Mock { address, seen: Arc::default(), behaviour });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .route("/provider", get(providers))
            .route("/agent", get(agents))
            .route("/session", post(session))
            .route("/session/{id}", delete(session_delete))
            .route("/session/{id}/abort", post(session_abort))
            .route("/session/{id}/message", post(message))
            .with_state(Arc::clone(&mock));
        std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, app).await.unwrap() }));
        mock
    }

    pub fn openai(&self) -> String {
        format!("openai:http://{}/v1#mock", self.address)
    }

    pub fn opencode(&self) -> String {
        format!("opencode:http://{}#local/mock", self.address)
    }

    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// The most often that one text was answered whole.
    pub fn most_answers(&self) -> u64 {
        self.seen.answered.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    pub fn texts_answered(&self) -> usize {
        self.seen.answered.lock().unwrap().len()
    }

    /// Counts a request, waits as long as an answer takes, and says how it goes.
    async fn arrive(&self, text: &str) -> (Active<'_>, Option<Fault>) {
        self.seen.requests.fetch_add(1, Ordering::SeqCst);
        self.seen.times.lock().unwrap().push(Instant::now());
        let count = {
            let mut asked = self.seen.asked.lock().unwrap();
            let count = asked.entry(text.to_owned()).or_insert(0);
            *count += 1;
            *count - 1
        };
        let active = self.seen.active.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.most_active.fetch_max(active, Ordering::SeqCst);
        let active = Active(&self.seen);
        tokio::time::sleep(self.behaviour.latency).await;
        let refused = self.behaviour.rate.is_some_and(|(most, time)| self.is_over(most, time));
        (active, if refused { Some(Fault::RateLimited) } else { (self.behaviour.plan)(text, count) })
    }

    fn is_over(&self, most: u64, time: Duration) -> bool {
        let mut window = self.seen.window.lock().unwrap();
        let (begin, count) =
            window.filter(|(begin, _)| begin.elapsed() < time).unwrap_or((Instant::now(), 0));
        *window = Some((begin, count + 1));
        count >= most
    }
}

struct Active<'a>(&'a Seen);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A response that fails, where the fault has the same form in both protocols.
async fn faulty(fault: Fault, good: Vec<u8>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match fault {
        Fault::RateLimited => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0.05")], "slow down").into_response()
        }
        Fault::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "oops").into_response(),
        Fault::Hang => std::future::pending().await,
        Fault::Cut => {
            let half = Bytes::from(good[..good.len() / 2].to_vec());
            let pieces = [Ok(half), Err(std::io::Error::other("cut"))];
            (json, Body::from_stream(futures::stream::iter(pieces))).into_response()
        }
        Fault::InvalidJson => (json, "{\"choices\": [").into_response(),
        Fault::WrongContentType => ([(header::CONTENT_TYPE, "text/html")], "<html></html>").into_response(),
        Fault::Drip => {
            let drops = futures::stream::unfold(good, |mut left| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let first = if left.is_empty() { return None } else { left.remove(0) };
                Some((Ok::<_, std::io::Error>(Bytes::from(vec![first])), left))
            });
            (json, Body::from_stream(drops)).into_response()
        }
        Fault::Status(status, message) => {
            let body = json!({"error": {"message": message}});
            (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
        }
        Fault::WorkedInVain => {
            let good: Value = serde_json::from_slice(&good).unwrap();
            let body = json!({"error": {"message": "it broke"}, "usage": good["usage"]});
            (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(body)).into_response()
        }
        Fault::Empty | Fault::ErrorInside | Fault::Huge => (json, good).into_response(),
    }
}

async fn chat(State(mock): State<Arc<Mock>>, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    mock.seen.authorization.lock().unwrap().extend(authorization.clone());
    if let Some(password) = &mock.behaviour.password
        && authorization.as_deref() != Some(&format!("Bearer {password}"))
    {
        let message = format!("wrong key: {}", authorization.unwrap_or_default());
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({"error": {"message": message}})))
            .into_response();
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let text =
        request["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
    let (_active, mut fault) = mock.arrive(&text).await;
    if mock.behaviour.newer && request.get("max_tokens").is_some() {
        fault =
            Some(Fault::Status(400, "'max_tokens' is not supported, use 'max_completion_tokens' instead."));
    }
    let mut answer = (mock.behaviour.answer)(request["model"].as_str().unwrap_or(""), &text);
    match fault {
        Some(Fault::Empty) => answer.clear(),
        Some(Fault::Huge) => answer = "x".repeat(10 << 20),
        _ => {}
    }
    let longest = request.get("max_tokens").unwrap_or(&request["max_completion_tokens"]).as_u64().unwrap();
    let mut usage = json!({"prompt_tokens": text.len() / 4 + 5, "completion_tokens": longest / 2});
    for (key, value) in mock.behaviour.usage.as_object().unwrap() {
        usage[key] = value.clone();
    }
    let tokens = |key: &str| usage[key].as_u64().unwrap();
    let tokens = tokens("prompt_tokens").saturating_add(tokens("completion_tokens"));
    if !matches!(fault, Some(Fault::RateLimited | Fault::ServerError | Fault::Status(..))) {
        mock.seen.tokens.fetch_add(tokens, Ordering::SeqCst);
    }
    if request["stream"] == true && fault.is_none() {
        *mock.seen.answered.lock().unwrap().entry(text.clone()).or_insert(0) += 1;
        return stream(&answer, &usage, &request, mock.behaviour.lingers);
    }
    let mut reply = json!({"id": "1", "object": "chat.completion", "usage": usage,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}]});
    if let Some(k) = request["top_logprobs"].as_u64() {
        let top: Vec<Value> = (0..k).map(|i| json!({"token": "x", "logprob": -0.5 * i as f64})).collect();
        reply["choices"][0]["logprobs"] =
            json!({"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]});
    }
    if fault == Some(Fault::ErrorInside) {
        reply = json!({"error": {"message": "the model is overloaded", "type": "server_error"}});
    }
    let reply = serde_json::to_vec(&reply).unwrap();
    match fault {
        Some(fault) => faulty(fault, reply).await,
        None => {
            *mock.seen.answered.lock().unwrap().entry(text.clone()).or_insert(0) += 1;
            ([(header::CONTENT_TYPE, "application/json")], reply).into_response()
        }
    }
}

/// The answer in pieces of seven characters.
fn stream(answer: &str, usage: &Value, request: &Value, lingers: bool) -> Response {
    let characters: Vec<char> = answer.chars().collect();
    let mut events: Vec<Value> = characters
        .chunks(7)
        .map(|piece| {
            let mut choice = json!({"index": 0, "delta": {"content": String::from_iter(piece)}});
            if request["logprobs"] == true {
                choice["logprobs"] =
                    json!({"content": [{"token": "t", "logprob": -1.0, "top_logprobs": []}]});
            }
            json!({"choices": [choice]})
        })
        .collect();
    events.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}));
    events.push(json!({"choices": [], "usage": usage}));
    let mut text: String = events.iter().map(|event| format!("data: {event}\r\n\r\n")).collect();
    text.push_str(": a comment\n\ndata: [DONE]\n\n");
    // Cut where no event ends.
    let pieces: Vec<_> = text
        .into_bytes()
        .chunks(50)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece.to_vec())))
        .collect();
    let pieces = futures::stream::iter(pieces);
    let end = futures::stream::once(async move {
        if lingers {
            std::future::pending::<()>().await;
        }
        Ok(Bytes::new())
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces.chain(end))).into_response()
}

async fn models() -> Response {
    axum::Json(json!({"object": "list", "data": [{"id": "mock"}, {"id": "mock-2", "pricing": {"prompt": "0.000001", "completion": "0.000002"}}]}))
        .into_response()
}

async fn providers() -> Response {
    let model =
        json!({"id": "mock", "cost": {"input": 1, "output": 2}, "limit": {"context": 4096, "output": 512}});
    let free =
        json!({"id": "free", "cost": {"input": 0, "output": 0}, "limit": {"context": 4096, "output": 512}});
    axum::Json(json!({"all": [{"id": "local", "models": {"mock": model, "free": free}}], "default": {}, "connected": ["local"]}))
        .into_response()
}

async fn agents() -> Response {
    axum::Json(json!([{"name": "build"}, {"name": "teacher"}])).into_response()
}

/// Whether the password is right, where there is one: HTTP's basic authorization of the user `opencode`.
fn allowed(mock: &Mock, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    mock.seen.authorization.lock().unwrap().extend(given.clone());
    mock.behaviour.password.as_ref().is_none_or(|expected| given.as_deref() == Some(expected))
}

async fn session(
    State(mock): State<Arc<Mock>>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    if !allowed(&mock, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    assert!(body["title"].is_string(), "without a title the server asks the model for one");
    let n = mock.seen.sessions.fetch_add(1, Ordering::SeqCst);
    axum::Json(json!({"id": format!("ses_{n}"), "time": {"created": 1}})).into_response()
}

async fn session_delete(State(mock): State<Arc<Mock>>, Path(_): Path<String>) -> Response {
    mock.seen.deleted.fetch_add(1, Ordering::SeqCst);
    axum::Json(true).into_response()
}

async fn session_abort(State(mock): State<Arc<Mock>>, Path(_): Path<String>) -> Response {
    mock.seen.aborted.fetch_add(1, Ordering::SeqCst);
    axum::Json(true).into_response()
}

async fn message(
    State(mock): State<Arc<Mock>>,
    Path(_): Path<String>,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let text = body["parts"][0]["text"].as_str().unwrap().to_owned();
    mock.seen.messages.lock().unwrap().push(body);
    let (_active, fault) = mock.arrive(&text).await;
    let mut answer = (mock.behaviour.answer)("local/mock", &text);
    match fault {
        Some(Fault::Empty) => answer.clear(),
        Some(Fault::Huge) => answer = "x".repeat(10 << 20),
        _ => {}
    }
    let tokens =
        json!({"total": 30, "input": 10, "output": 20, "reasoning": 0, "cache": {"read": 0, "write": 0}});
    let mut reply = json!({"info": {"role": "assistant", "cost": 0.00005, "tokens": tokens, "finish": "stop"},
        "parts": [{"type": "step-start"}, {"type": "text", "text": answer}, {"type": "step-finish"}]});
    if fault == Some(Fault::ErrorInside) {
        let none =
            json!({"total": 0, "input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}});
        let error = json!({"name": "APIError", "data": {"message": "upstream broke", "statusCode": 503, "isRetryable": true}});
        reply = json!({"info": {"cost": 0, "tokens": none, "error": error}, "parts": []});
    }
    let reply = serde_json::to_vec(&reply).unwrap();
    match fault {
        Some(fault) => faulty(fault, reply).await,
        None => {
            *mock.seen.answered.lock().unwrap().entry(text).or_insert(0) += 1;
            ([(header::CONTENT_TYPE, "application/json")], reply).into_response()
        }
    }
}
