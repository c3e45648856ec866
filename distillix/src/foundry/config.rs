//! The `foundry` section of a config.

use super::clean::CleanConfig;
use super::orchestrate::chooses;
use super::teacher::{Sampling, base_url};
use crate::smelter::config::read;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// How to make data from teachers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FoundryConfig {
    /// The teachers, each an object with some keys of `defaults`; `url` and `model` at least. `--teacher` adds to them.
    pub teachers: Vec<Value>,
    /// What a teacher has whose own object does not say otherwise.
    pub defaults: TeacherConfig,
    /// Which teacher answers what.
    pub strategy: Strategy,
    /// Answers a prompt: records of `one`, `round_robin`, `weighted` and `fallback`; candidates of `best_of_n`; answers a
    /// teacher of `all` and `consensus`.
    pub samples: u32,
    /// A teacher that chooses among the candidates of `best_of_n` and `consensus` where there are no tests: the name of one of
    /// `teachers`, or `KIND:URL#MODEL`.
    pub judge: Option<String>,
    /// How alike two answers must be to agree, 0 to 1 (the share of common word triples), for `consensus`.
    pub agreement: f64,
    /// A message of role `system` before each prompt.
    pub system: Option<String>,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws from the likeliest tokens that have this probability together.
    pub top_p: f64,
    /// An answer's longest length in tokens.
    pub max_output_tokens: u32,
    /// Keep the logarithms of the probabilities of this many likeliest tokens at each position; 0 keeps none.
    pub top_logprobs: u32,
    /// Sent with each request, plus the number of the sample; `null` sends none.
    pub seed: Option<u64>,
    /// An answer ends before any of these.
    pub stop: Vec<String>,
    /// Most that may be spent, in the currency of the prices. This and the next two hold for all runs on one store together.
    pub max_cost: Option<f64>,
    /// Most tokens, read and written.
    pub max_tokens: Option<u64>,
    /// Most requests, failed ones included.
    pub max_requests: Option<u64>,
    /// A request that failed for a passing reason is sent again at most this often.
    pub retries: u32,
    /// Seconds before the first retry; doubled for each further one, and drawn at random from the upper half.
    pub backoff_s: f64,
    /// The longest time between two tries, in seconds.
    pub max_backoff_s: f64,
    /// Seconds to wait for a connection.
    pub connect_timeout_s: f64,
    /// Seconds to wait for an answer, plus `timeout_per_token_s` for each token of the longest answer.
    pub timeout_s: f64,
    /// See `timeout_s`.
    pub timeout_per_token_s: f64,
    /// When to leave a teacher alone for a while.
    pub breaker: BreakerConfig,
    /// How answers, and existing data, are cleaned.
    pub clean: CleanConfig,
}

impl Default for FoundryConfig {
    fn default() -> Self {
        FoundryConfig {
            teachers: Vec::new(),
            defaults: TeacherConfig::default(),
            strategy: Strategy::One,
            samples: 1,
            judge: None,
            agreement: 0.5,
            system: None,
            temperature: 0.7,
            top_p: 0.95,
            max_output_tokens: 1024,
            top_logprobs: 0,
            seed: Some(0),
            stop: Vec::new(),
            max_cost: None,
            max_tokens: None,
            max_requests: None,
            retries: 8,
            backoff_s: 0.5,
            max_backoff_s: 30.0,
            connect_timeout_s: 10.0,
            timeout_s: 60.0,
            timeout_per_token_s: 0.1,
            breaker: BreakerConfig::default(),
            clean: CleanConfig::default(),
        }
    }
}

/// Which teacher answers what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The first teacher answers everything.
    #[default]
    One,
    /// The teachers take turns.
    RoundRobin,
    /// Each teacher answers its share, by `weight`.
    Weighted,
    /// The first teacher that can.
    Fallback,
    /// Every teacher answers every prompt, and every answer is kept.
    All,
    /// `samples` candidates, the teachers taking turns; one is kept: the first that passes the prompt's tests, else the
    /// judge's choice, else the one most like the others.
    BestOfN,
    /// Candidates from every teacher; one is kept: of those that pass the prompt's tests, if most do, else the judge's choice, else
    /// one that most are like.
    Consensus,
}

/// A teacher, and how it may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherConfig {
    /// The protocol it speaks.
    pub kind: TeacherKind,
    /// How the output calls it; `null` for `KIND:URL`. Answers are stored under it: with a name, a server may move.
    pub name: Option<String>,
    /// Its address, `http://` or `https://`; for `openai` the base, `/v1` included.
    pub url: String,
    /// The model: as the server names it, for `opencode` as `PROVIDER/MODEL`.
    pub model: String,
    /// Its share of the prompts with the strategy `weighted`, relative to the others'.
    pub weight: f64,
    /// Most requests at one time.
    pub concurrency: usize,
    /// Most requests in a minute.
    pub requests_per_minute: Option<f64>,
    /// Most tokens in a minute, read and written.
    pub tokens_per_minute: Option<f64>,
    /// What it costs; `null` asks the server.
    pub price: Option<Price>,
    /// Name of the environment variable with its key or password. `null` stands for `OPENAI_API_KEY` at api.openai.com only,
    /// and `OPENCODE_SERVER_PASSWORD` for `opencode`.
    pub key_env: Option<String>,
    /// A file with its key or password.
    pub key_file: Option<PathBuf>,
    /// `openai`: chat or plain completions.
    pub api: Api,
    /// `openai`: ask for the answer in pieces.
    pub stream: bool,
    /// `openai`: keys that are added to each request; `null` as a value takes a key out.
    pub extra: Map<String, Value>,
    /// `opencode`: the agent that answers; `null` for the server's own choice.
    pub agent: Option<String>,
    /// Tokens that the server itself adds to a prompt at most, for the budget; `null` for 64 with `openai` and 16,384 with
    /// `opencode`, whose agents have long instructions.
    pub overhead_tokens: Option<u64>,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        TeacherConfig {
            kind: TeacherKind::Openai,
            name: None,
            url: String::new(),
            model: String::new(),
            weight: 1.0,
            concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            price: None,
            key_env: None,
            key_file: None,
            api: Api::Chat,
            stream: false,
            extra: Map::new(),
            agent: None,
            overhead_tokens: None,
        }
    }
}

/// Protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TeacherKind {
    /// What vLLM, llama.cpp, Ollama and most hosted services speak.
    #[default]
    Openai,
    /// An OpenCode server, 1.18 or newer.
    Opencode,
}

impl TeacherKind {
    /// Its name in a config and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            TeacherKind::Openai => "openai",
            TeacherKind::Opencode => "opencode",
        }
    }
}

/// Which of the `openai` requests is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `/chat/completions`.
    #[default]
    Chat,
    /// `/completions`: the prompt is continued, without a chat template.
    Completions,
}

/// Prices of a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of a million tokens read.
    pub input: f64,
    /// Of a million tokens written.
    pub output: f64,
}

impl Price {
    /// What so many tokens cost.
    pub fn cost(self, input: u64, output: u64) -> f64 {
        (self.input * input as f64 + self.output * output as f64) / 1e6
    }
}

/// When a teacher is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Looks at this many last requests.
    pub window: usize,
    /// Opens when this share of them failed by the server's fault.
    pub failures: f64,
    /// Seconds until one request tries whether the server is well again; doubled each time it is not.
    pub cooldown_s: f64,
    /// The longest such time.
    pub max_cooldown_s: f64,
    /// A teacher that was not well for so many seconds is given up.
    pub give_up_s: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig { window: 20, failures: 0.75, cooldown_s: 2.0, max_cooldown_s: 60.0, give_up_s: 900.0 }
    }
}

impl TeacherConfig {
    /// Parses `KIND:URL#MODEL`, with everything else as in `defaults`. The model may be absent.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(spec: &str, defaults: &TeacherConfig) -> Result<Self> {
        let form = "a teacher is written opencode:URL#PROVIDER/MODEL or openai:URL#MODEL";
        // What was given is not repeated: it may hold a password.
        let kind = match spec.split_once(':') {
            Some(("openai", rest)) => Some((TeacherKind::Openai, rest)),
            Some(("opencode", rest)) => Some((TeacherKind::Opencode, rest)),
            _ => None,
        };
        let (kind, rest) = kind.with_context(|| format!("this names no kind of teacher: {form}"))?;
        let (url, model) = rest.split_once('#').unwrap_or((rest, ""));
        let url = url.trim_end_matches('/').to_owned();
        base_url(&url)?;
        Ok(TeacherConfig { kind, url, model: model.to_owned(), ..defaults.clone() })
    }

    /// How the output and the store call the teacher.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}:{}", self.kind.name(), self.url))
    }

    /// Teacher and model in one word, for people.
    pub fn label(&self) -> String {
        format!("{}#{}", self.name(), self.model)
    }

    fn validate(&self, key: &str, is_default: bool) -> Result<()> {
        if !is_default {
            base_url(&self.url).with_context(|| format!("{key}.url"))?;
            ensure!(
                !self.model.is_empty(),
                "{key}.model is empty: name the model ({}:{}#MODEL)",
                self.kind.name(),
                self.url
            );
            ensure!(
                self.kind != TeacherKind::Opencode || self.model.contains('/'),
                "{key}.model is {:?}: an opencode model is written PROVIDER/MODEL",
                self.model
            );
        }
        ensure!(
            self.weight.is_finite() && self.weight > 0.0,
            "{key}.weight is {}, it must be above 0",
            self.weight
        );
        ensure!(
            (1..=4096).contains(&self.concurrency),
            "{key}.concurrency is {}, it must be from 1 to 4096",
            self.concurrency
        );
        for (name, rate) in
            [("requests_per_minute", self.requests_per_minute), ("tokens_per_minute", self.tokens_per_minute)]
        {
            ensure!(
                rate.is_none_or(|rate| rate.is_finite() && rate > 0.0),
                "{key}.{name} is {}, it must be above 0",
                rate.unwrap_or(0.0)
            );
        }
        if let Some(price) = self.price {
            for (name, x) in [("input", price.input), ("output", price.output)] {
                ensure!(
                    x.is_finite() && x >= 0.0,
                    "{key}.price.{name} is {x}, it must be a number from 0 up"
                );
            }
        }
        Ok(())
    }
}

impl FoundryConfig {
    /// The teachers, each with all of its keys.
    ///
    /// # Errors
    /// With the key that a teacher has not, or cannot have so.
    pub fn resolved_teachers(&self) -> Result<Vec<TeacherConfig>> {
        let defaults = serde_json::to_value(&self.defaults)?;
        let mut teachers = Vec::new();
        for (i, own) in self.teachers.iter().enumerate() {
            let key = format!("foundry.teachers[{i}]");
            let (Value::Object(own), Value::Object(mut value)) = (own, defaults.clone()) else {
                bail!("{key} must be an object such as {{\"url\": …, \"model\": …}}");
            };
            // A teacher's own key takes the place of the common one, whichever way either is named.
            let keys = ["key_env", "key_file"];
            if keys.iter().any(|key| own.get(*key).is_some_and(|value| !value.is_null())) {
                keys.iter().for_each(|key| drop(value.insert((*key).to_owned(), Value::Null)));
            }
            value.extend(own.clone());
            let value = Value::Object(value);
            let mut teacher: TeacherConfig = read(value).map_err(|error| anyhow!("{key}.{error}"))?;
            teacher.url = teacher.url.trim_end_matches('/').to_owned();
            teacher.validate(&key, false)?;
            teachers.push(teacher);
        }
        Ok(teachers)
    }

    /// The teachers with the judge among them, and its place: the one of that name or address, else one more at the end.
    ///
    /// # Errors
    /// As [`FoundryConfig::resolved_teachers`], or when the judge is none.
    pub fn resolved_with_judge(&self) -> Result<(Vec<TeacherConfig>, Option<usize>)> {
        let mut teachers = self.resolved_teachers()?;
        let Some(name) = &self.judge else { return Ok((teachers, None)) };
        let named = teachers.iter().position(|teacher| teacher.name() == *name || teacher.label() == *name);
        if named.is_some() {
            return Ok((teachers, named));
        }
        let judge = TeacherConfig::parse(name, &self.defaults)
            .context("foundry.judge is neither the name of a teacher nor KIND:URL#MODEL")?;
        judge.validate("foundry.judge", false)?;
        let address = |teacher: &TeacherConfig| (teacher.kind, teacher.url.clone(), teacher.model.clone());
        let known = teachers.iter().position(|teacher| address(teacher) == address(&judge));
        if known.is_none() {
            teachers.push(judge);
        }
        let last = teachers.len() - 1;
        Ok((teachers, Some(known.unwrap_or(last))))
    }

    /// Adds a teacher given as `KIND:URL#MODEL`.
    ///
    /// # Errors
    /// When it has another form.
    pub fn add_teacher(&mut self, spec: &str) -> Result<()> {
        let teacher = TeacherConfig::parse(spec, &self.defaults)?;
        let own = [("kind", teacher.kind.name()), ("url", &teacher.url), ("model", &teacher.model)];
        let own = own.map(|(key, value)| (key.to_owned(), Value::from(value)));
        self.teachers.push(Value::Object(Map::from_iter(own)));
        Ok(())
    }

    /// How answers are drawn, for the sample of that number.
    pub fn sampling(&self, sample: u32) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            max_tokens: self.max_output_tokens,
            seed: self.seed.map(|seed| seed.wrapping_add(u64::from(sample))),
            stop: self.stop.clone(),
            top_logprobs: self.top_logprobs,
        }
    }

    /// The longest wait for an answer of so many tokens.
    pub fn timeout(&self, max_tokens: u32) -> Duration {
        Duration::from_secs_f64(self.timeout_s + self.timeout_per_token_s * f64::from(max_tokens))
    }

    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.defaults.validate("foundry.defaults", true)?;
        self.resolved_with_judge()?;
        ensure!(
            self.judge.is_none() || chooses(self.strategy),
            "foundry.judge chooses among candidates, which only the strategies best_of_n and consensus have"
        );
        self.clean.validate()?;
        ensure!(
            !self.system.as_deref().is_some_and(|text| text.contains('\0')),
            "foundry.system has a NUL character, which no server takes"
        );
        ensure!(
            (1..=1024).contains(&self.samples),
            "foundry.samples is {}, it must be from 1 to 1024",
            self.samples
        );
        ensure!(
            (1..=1 << 20).contains(&self.max_output_tokens),
            "foundry.max_output_tokens is {}, it must be from 1 to 1048576",
            self.max_output_tokens
        );
        ensure!(self.retries <= 100, "foundry.retries is {}, it must be at most 100", self.retries);
        let unit = [
            ("agreement", self.agreement),
            ("top_p", self.top_p),
            ("breaker.failures", self.breaker.failures),
        ];
        for (key, x) in unit {
            ensure!((0.0..=1.0).contains(&x), "foundry.{key} is {x}, it must be from 0 to 1");
        }
        let positive = [
            ("temperature", self.temperature),
            ("backoff_s", self.backoff_s),
            ("max_backoff_s", self.max_backoff_s),
            ("timeout_per_token_s", self.timeout_per_token_s),
            ("max_cost", self.max_cost.unwrap_or(0.0)),
            ("breaker.cooldown_s", self.breaker.cooldown_s),
            ("breaker.max_cooldown_s", self.breaker.max_cooldown_s),
            ("breaker.give_up_s", self.breaker.give_up_s),
        ];
        for (key, x) in positive {
            ensure!((0.0..=1e6).contains(&x), "foundry.{key} is {x}, it must be from 0 to 1000000");
        }
        for (key, x) in [("timeout_s", self.timeout_s), ("connect_timeout_s", self.connect_timeout_s)] {
            ensure!(x > 0.0 && x <= 1e6, "foundry.{key} is {x}, it must be above 0, at most 1000000");
        }
        ensure!(
            (1..=10_000).contains(&self.breaker.window),
            "foundry.breaker.window is {}, it must be from 1 to 10000",
            self.breaker.window
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smelter::config::Config;

    #[test]
    fn teachers_are_written_in_one_word() -> Result<()> {
        let defaults = TeacherConfig { concurrency: 3, ..TeacherConfig::default() };
        let teacher = TeacherConfig::parse("opencode:http://localhost:4096#local/smollm2", &defaults)?;
        assert_eq!(teacher.kind, TeacherKind::Opencode);
        assert_eq!(
            (teacher.url.as_str(), teacher.model.as_str()),
            ("http://localhost:4096", "local/smollm2")
        );
        assert_eq!(teacher.concurrency, 3);
        assert_eq!(teacher.label(), "opencode:http://localhost:4096#local/smollm2");
        for (bad, why) in [
            ("openai", "is written"),
            ("ollama:http://x#m", "no kind of teacher"),
            ("openai:ftp://x#m", "http:// or https://"),
            ("openai:http://user:hunter2@x/v1#m", "credentials"),
            ("openai:http://x/v1?key=abc#m", "credentials"),
        ] {
            let error = format!("{:#}", TeacherConfig::parse(bad, &defaults).unwrap_err());
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("abc"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_teacher_has_the_defaults_it_does_not_change() -> Result<()> {
        let config = Config::default()
            .with_setting("foundry.defaults.concurrency=5")?
            .with_setting(r#"foundry.teachers=[{"url":"http://a/v1/","model":"m"},{"url":"http://b","model":"p/m","kind":"opencode"}]"#)?;
        let teachers = config.foundry.resolved_teachers()?;
        let keys = config
            .clone()
            .with_setting("foundry.defaults.key_file=\"common\"")?
            .with_setting(r#"foundry.teachers=[{"url":"http://a","model":"m"},{"url":"http://b","model":"m","key_env":"OWN"}]"#)?;
        let keys = keys.foundry.resolved_teachers()?;
        assert_eq!(keys[0].key_file.as_deref(), Some(std::path::Path::new("common")));
        assert_eq!((keys[1].key_file.as_deref(), keys[1].key_env.as_deref()), (None, Some("OWN")));
        assert_eq!(teachers[0].concurrency, 5);
        assert_eq!(teachers[0].url, "http://a/v1");
        assert_eq!((teachers[1].concurrency, teachers[1].kind), (5, TeacherKind::Opencode));
        let error = |setting: &str| {
            let config = Config::default().with_setting(setting).unwrap();
            format!("{:#}", config.validate().unwrap_err())
        };
        let unknown = error(r#"foundry.teachers=[{"url":"http://a","modell":"m"}]"#);
        assert_eq!(unknown, "foundry.teachers[0].modell: there is no such key, did you mean model?");
        assert!(
            error(r#"foundry.teachers=[{"url":"http://a"}]"#).contains("foundry.teachers[0].model is empty")
        );
        assert!(error("foundry.samples=0").contains("foundry.samples is 0"));
        Ok(())
    }
}
