//! What a store says, read beside a run or without one.

use super::{Key, schema};
use crate::foundry::budget::Amount;
use crate::foundry::prompts::Prompt;
use crate::foundry::record::Record;
use crate::foundry::teacher::{Failure, FailureKind};
use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A prompt of the store.
#[derive(Clone, Debug)]
pub struct StoredPrompt {
    /// Its place in the order, from 0.
    pub position: i64,
    /// What its outcomes are found by.
    pub content: Key,
    /// Prompts that have the same content, itself included.
    pub copies: u64,
    /// The prompt.
    pub prompt: Prompt,
}

/// How far a set is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Samples that are wanted: prompts times samples.
    pub wanted: u64,
    /// Of these, answered.
    pub done: u64,
    /// Of these, failed for good.
    pub failed: u64,
    /// The failed ones by reason, most frequent first.
    pub reasons: Vec<Stage>,
    /// What was spent, by teacher.
    pub spending: Vec<Spending>,
}

impl Status {
    /// Samples that are neither answered nor failed.
    pub fn left(&self) -> u64 {
        self.wanted.saturating_sub(self.done + self.failed)
    }

    /// What was spent on all teachers, and how many of the requests count at their worst case.
    pub fn spent(&self) -> (Amount, u64) {
        let total = self.spending.iter().fold(Amount::default(), |sum, row| sum.plus(row.amount));
        (total, self.spending.iter().map(|row| row.assumed).sum())
    }
}

/// A reason for failures, and how many it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The kind of failure.
    pub reason: String,
    /// How many samples.
    pub count: u64,
    /// What one of them says.
    pub example: String,
}

/// What was spent on a teacher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spending {
    /// The teacher.
    pub teacher: String,
    /// Its model.
    pub model: String,
    /// Answers that came.
    pub answers: u64,
    /// Requests, tokens and money.
    #[serde(flatten)]
    pub amount: Amount,
    /// Requests whose cost is not known, counted at their worst case.
    pub assumed: u64,
}

/// Reads a store, also while another process writes it.
#[derive(Debug)]
pub struct StoreReader {
    connection: Connection,
    path: PathBuf,
}

impl StoreReader {
    /// Opens a store that exists.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(StoreReader { connection: schema::open_to_read(path)?, path: path.to_owned() })
    }

    /// Reads a fact about the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        meta(&self.connection, key)
    }

    /// How far the set is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn status(&self) -> Result<Status> {
        let number =
            |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0).map(|n| n as u64));
        let prompts = number("SELECT count(*) FROM prompts")?;
        let samples: u64 = self.meta("samples")?.and_then(|text| text.parse().ok()).unwrap_or(1);
        let joined = "FROM prompts p JOIN outcomes o ON o.content = p.content";
        let done = number(&format!("SELECT count(*) {joined} WHERE o.kind IS NULL"))?;
        let mut query = self.connection.prepare(&format!(
            "SELECT o.kind, count(*), max(o.message) {joined} WHERE o.kind IS NOT NULL GROUP BY o.kind ORDER BY 2 DESC, 1"
        ))?;
        let reasons = query.query_map([], |row| {
            Ok(Stage { reason: row.get(0)?, count: row.get::<_, i64>(1)? as u64, example: row.get(2)? })
        })?;
        let reasons = reasons.collect::<rusqlite::Result<Vec<_>>>()?;
        let failed = reasons.iter().map(|reason| reason.count).sum();
        Ok(Status { wanted: prompts * samples, done, failed, reasons, spending: self.spending()? })
    }

    fn spending(&self) -> Result<Vec<Spending>> {
        let mut query = self.connection.prepare(
            "SELECT teacher, model, answers, requests, input, output, cost, assumed FROM spending ORDER BY teacher, model",
        )?;
        let count = |row: &Row<'_>, at: usize| row.get::<_, i64>(at).map(|n| n as u64);
        let rows = query.query_map([], |row| {
            let amount = Amount {
                requests: count(row, 3)?,
                input: count(row, 4)?,
                output: count(row, 5)?,
                cost: row.get(6)?,
            };
            let (teacher, model) = (row.get(0)?, row.get(1)?);
            Ok(Spending { teacher, model, answers: count(row, 2)?, amount, assumed: count(row, 7)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The records of the set, in the order of the prompts and then of the samples: a function of what is stored.
    /// `with_logprobs` adds the log-probabilities.
    ///
    /// # Errors
    /// When the store cannot be read, or `take` fails.
    pub fn records(&self, with_logprobs: bool, mut take: impl FnMut(Record) -> Result<()>) -> Result<()> {
        let mut query = self.connection.prepare(
            "SELECT p.id, p.body, o.answers, o.checks, p.position FROM prompts p JOIN outcomes o ON o.content = p.content
             WHERE o.kind IS NULL ORDER BY p.position, o.sample",
        )?;
        let mut rows = query.query([])?;
        let (mut last, mut sample) = (-1, 0);
        let many = self.meta("answers")?.is_some_and(|answers| answers != "1");
        while let Some(row) = rows.next()? {
            let position: i64 = row.get(4)?;
            if position != last {
                (last, sample) = (position, 0);
            }
            let prompt: Prompt = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
            let id: String = row.get(0)?;
            let checks =
                row.get_ref(3)?.as_str_or_null()?.map(serde_json::from_str::<Vec<Map<String, Value>>>);
            let mut checks = checks.transpose()?.unwrap_or_default().into_iter();
            for key in Key::split(row.get_ref(2)?.as_blob()?) {
                let mut record = self.record(key, &id, &prompt, with_logprobs)?;
                record.sample = many.then_some(sample);
                sample += 1;
                record.checks.extend(checks.next().into_iter().flatten());
                take(record)?;
            }
        }
        Ok(())
    }

    fn record(&self, key: Key, id: &str, prompt: &Prompt, with_logprobs: bool) -> Result<Record> {
        let mut query = self
            .connection
            .prepare_cached("SELECT teacher, model, finish, text, logprobs FROM answers WHERE key = ?1")?;
        let row = query.query_row([key], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, Option<Vec<u8>>>(4)?,
            ))
        });
        let (teacher, model, finish, text, logprobs) = row
            .with_context(|| format!("the answer of the prompt {id:?} is not in {}", self.path.display()))?;
        let mut record = Record::answer(id, prompt.prompt.clone(), text);
        record.teacher = Some(teacher);
        record.model = Some(model);
        record.finish = Some(finish);
        record.language = prompt.language.clone();
        record.tests = prompt.tests.clone();
        record.extra = prompt.extra.clone();
        if let Some(logprobs) = logprobs.filter(|_| with_logprobs) {
            let json = zstd::decode_all(&logprobs[..]).context("stored log-probabilities cannot be read")?;
            record.extra.insert("logprobs".to_owned(), serde_json::from_slice(&json)?);
        }
        Ok(record)
    }
}

pub(super) fn meta(connection: &Connection, key: &str) -> Result<Option<String>> {
    let value = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    Ok(value.optional()?)
}

pub(super) fn open_prompts(
    connection: &Connection,
    position: i64,
    samples: u32,
    most: usize,
) -> Result<Vec<StoredPrompt>> {
    let mut query = connection.prepare_cached(
        "SELECT position, content, (SELECT count(*) FROM prompts q WHERE q.content = p.content), body FROM prompts p
         WHERE position > ?1 AND (SELECT count(*) FROM outcomes o WHERE o.content = p.content) < ?2
         AND NOT EXISTS (SELECT 1 FROM prompts q WHERE q.content = p.content AND q.position < p.position)
         ORDER BY position LIMIT ?3",
    )?;
    let mut rows = query.query(params![position, samples, most as i64])?;
    let mut prompts = Vec::new();
    while let Some(row) = rows.next()? {
        let prompt = serde_json::from_str(row.get_ref(3)?.as_str()?)?;
        let copies = row.get::<_, i64>(2)? as u64;
        prompts.push(StoredPrompt { position: row.get(0)?, content: row.get(1)?, copies, prompt });
    }
    Ok(prompts)
}

/// A stored failure.
pub(super) fn failure(kind: &str, message: &str) -> Failure {
    Failure::new(FailureKind::named(kind).unwrap_or(FailureKind::Rejected), message)
}
