//! HTTP with JSON: bounded in time and size, errors as [`Failure`]s, and no credentials in any of them.

use super::{Failure, FailureKind, Secret, Spent, counted};
use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};
use serde_json::Value;
use std::error::Error;
use std::sync::Once;
use std::time::{Duration, SystemTime};

/// Who we are to a server.
#[derive(Clone, Debug)]
pub(super) enum Auth {
    None,
    Bearer(Secret),
    Basic(String, Secret),
}

/// A client of one server.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client,
    base: String,
    auth: Auth,
}

/// Answers to anything but a prompt are small and quick.
const SMALL: usize = 32 << 20;
const QUICK: Duration = Duration::from_secs(20);

/// Parses a server's address.
///
/// # Errors
/// When it is no http or https address, or holds credentials.
pub fn base_url(text: &str) -> Result<Url> {
    // Whatever may be a password is not repeated in the message.
    let url = Url::parse(text).map_err(|error| anyhow!("the address of a server is no URL: {error}"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "an address with {}: is not supported, only http:// or https:// are",
        url.scheme()
    );
    ensure!(
        url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none(),
        "the address of {} has a user, password or query: credentials come from a variable or a file (key_env, key_file), never from an address",
        url.host_str().unwrap_or("a server")
    );
    ensure!(url.host_str().is_some(), "an address needs a host");
    Ok(url)
}

impl Http {
    pub(super) fn new(base: &str, auth: Auth, connect_timeout: Duration) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // It fails where a provider is installed already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let url = base_url(base)?;
        let mut headers = HeaderMap::new();
        if let Auth::Bearer(secret) = &auth {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
                .map_err(|_| anyhow!("the key has characters that no key has"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut client = Client::builder()
            .default_headers(headers)
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("distillix/", env!("CARGO_PKG_VERSION")))
            // Following one could carry the credentials to another host.
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "http" {
            // No certificate is looked at, so a machine without any can do without.
            client = client.tls_certs_only([]);
        }
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            client = client.no_proxy();
        }
        let client =
            client.build().map_err(|error| anyhow!(chain(&error))).context("cannot prepare connections")?;
        Ok(Http { client, base: base.trim_end_matches('/').to_owned(), auth })
    }

    /// A small question that costs nothing: GET, POST or DELETE of `path`, and the JSON that comes back.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let work = async {
            let response = self.send(method, path, body, "application/json").await?;
            self.json(response, SMALL).await
        };
        let done = tokio::time::timeout(QUICK, work).await;
        let done = done.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::Timeout, format!("no answer to {path} in {} s", QUICK.as_secs())))
        });
        done.map_err(|failure| failure.spent(Spent::Nothing))
    }

    /// Sends, and returns once the head of a good response is there.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        accept: &'static str,
    ) -> Result<Response, Failure> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).header(ACCEPT, accept);
        if let Auth::Basic(user, secret) = &self.auth {
            request = request.basic_auth(user, Some(secret.expose()));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let body = match read(response, 1 << 16).await {
            Ok(body) => body,
            Err((body, _)) => body,
        };
        let message = if status.is_redirection() {
            "the server points to another address, which is not followed".to_owned()
        } else {
            error_message(&body).unwrap_or_else(|| status.canonical_reason().unwrap_or("").to_owned())
        };
        let failure = Failure::of_status(status.as_u16(), &self.blot(&message));
        // What the server counted is known better than what a status says.
        let spent = match serde_json::from_slice(&body).map_or(Spent::Unknown, |body| counted(&body)) {
            Spent::Unknown => failure.spent,
            counted => counted,
        };
        Err(Failure { retry_after, spent, ..failure })
    }

    /// The JSON of a response, if it is that and has at most `limit` bytes.
    pub(super) async fn json(&self, response: Response, limit: usize) -> Result<Value, Failure> {
        self.content_type(&response, "json")?;
        let body = read(response, limit).await.map_err(|error| match error.1 {
            Some(error) => self.failure(&error),
            None => too_large(limit),
        })?;
        self.parse(&body)
            .map_err(|error| Failure::new(FailureKind::BadAnswer, format!("the answer is not JSON: {error}")))
    }

    /// JSON of the server's, without our secret in any text.
    pub(super) fn parse(&self, json: &[u8]) -> serde_json::Result<Value> {
        let mut value = serde_json::from_slice(json)?;
        if !matches!(self.auth, Auth::None) {
            for_each_text(&mut value, &|text| *text = self.blot(text));
        }
        Ok(value)
    }

    /// Checks that a response says it is what was asked for.
    pub(super) fn content_type(&self, response: &Response, needed: &str) -> Result<(), Failure> {
        let given = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if given.is_empty() || given.to_ascii_lowercase().contains(needed) {
            return Ok(());
        }
        let message =
            format!("the answer is {given}, not {needed}: is {} the right address?", response.url().path());
        Err(Failure::new(FailureKind::BadAnswer, self.blot(&message)))
    }

    /// What went wrong between us and the server.
    pub(super) fn failure(&self, error: &reqwest::Error) -> Failure {
        let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Connection };
        // Without a connection nothing was sent.
        let spent = if error.is_connect() || error.is_builder() { Spent::Nothing } else { Spent::Unknown };
        Failure::new(kind, self.blot(&chain(error))).spent(spent)
    }

    /// `text` without our secret, which a server may repeat.
    pub(super) fn blot(&self, text: &str) -> String {
        match &self.auth {
            Auth::None => text.to_owned(),
            Auth::Bearer(secret) => secret.blot(text, None),
            Auth::Basic(user, secret) => secret.blot(text, Some(user)),
        }
    }
}

fn for_each_text(value: &mut Value, change: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(values) => values.iter_mut().for_each(|value| for_each_text(value, change)),
        Value::Object(values) => values.values_mut().for_each(|value| for_each_text(value, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A failure for an answer that exceeds `limit`.
pub(super) fn too_large(limit: usize) -> Failure {
    let message =
        format!("the answer has more than {limit} bytes, which no answer of the length asked for has");
    Failure::new(FailureKind::TooLarge, message)
}

/// An error and its causes; the outermost says little.
fn chain(error: &dyn Error) -> String {
    let (mut parts, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        parts.push(error.to_string());
        next = error.source();
    }
    parts.dedup();
    parts.join(": ")
}

/// A body of at most `limit` bytes; otherwise what was read, with the error if there was one.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, (Vec<u8>, Option<reqwest::Error>)> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err((body, None)),
            Err(error) => return Err((body, Some(error))),
        }
    }
}

/// What the body of an error says, in the forms that servers use.
fn error_message(body: &[u8]) -> Option<String> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        return Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.starts_with('<'));
    };
    let places = ["/error/message", "/error", "/message", "/data/message", "/detail", "/name"];
    places.iter().find_map(|place| value.pointer(place)?.as_str().map(str::to_owned))
}

/// The longest that a server may keep us away.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64())),
        Ok(_) => return None,
        Err(_) => {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(http_date(text).ok()?);
            at.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Result<u64> {
    let mut parts = text.split([' ', ':', '-']).skip(1).filter(|part| !part.is_empty());
    let mut next = || parts.next().context("a date that ends early");
    let day: i64 = next()?.parse()?;
    let name = next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Some(month) = months.iter().position(|month| *month == name) else { bail!("no month") };
    let month = month as i64 + 1;
    let year: i64 = next()?.parse()?;
    let (hour, minute, second): (i64, i64, i64) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    // Days from the civil calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Ok(u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::config::TeacherConfig;
    use serde_json::json;

    #[test]
    fn dates_and_seconds_say_when_to_ask_again() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap(), 784_111_777);
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT").unwrap(), 1_709_164_800);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let wait = |text: &'static str| retry_after(&HeaderValue::from_static(text), now);
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("99999999999"), Some(LONGEST_WAIT));
        assert_eq!(wait("NaN"), None);
        assert_eq!(wait("-3"), None);
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_key_that_a_server_repeats_is_blotted_out_and_a_word_is_not() -> Result<()> {
        let parse = |key: &str, json: &str| -> Result<Value> {
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), key)?;
            let path = Some(file.path().to_owned());
            let config = TeacherConfig { key_file: path, ..TeacherConfig::default() };
            let secret = Secret::of(&config, None)?.context("a key")?;
            let http = Http::new("http://a", Auth::Basic("me".to_owned(), secret), QUICK)?;
            Ok(http.parse(json.as_bytes())?)
        };
        let (key, basic) = ("sk/abc-123", "bWU6c2svYWJjLTEyMw==");
        let json = format!(r#"{{"a": ["is sk\/abc-123", "Basic {basic}", 1]}}"#);
        assert_eq!(parse(key, &json)?, json!({"a": ["is ***", "Basic ***", 1]}));
        let json = json!({"test": "def test(): return 'test'"});
        assert_eq!(parse("test", &json.to_string())?, json);
        Ok(())
    }

    #[test]
    fn error_bodies_have_many_forms() {
        let says = |body: &str| error_message(body.as_bytes());
        for body in [
            r#"{"error":{"message":"busy","type":"x"}}"#,
            r#"{"error":"busy"}"#,
            r#"{"name":"E","data":{"message":"busy"}}"#,
            r#"{"detail":"busy"}"#,
            "busy\n",
        ] {
            assert_eq!(says(body).as_deref(), Some("busy"), "{body}");
        }
        assert_eq!(says("<html>"), None);
        assert_eq!(says(""), None);
    }
}
