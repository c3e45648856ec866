//! The one thread that writes. What arrives while it commits goes into the next transaction, so that many requests share
//! one flush of the disk.

use super::{Key, Outcome};
use crate::foundry::budget::Amount;
use crate::foundry::teacher::{Answer, Failure};
use rusqlite::{Connection, params};
use serde_json::Value;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Most writes in one transaction.
const BATCH: usize = 1024;

/// A write, and where to say that it is on the disk.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) done: oneshot::Sender<Result<(), String>>,
}

pub(super) enum Work {
    /// A request is about to be sent.
    Begin { flight: i64, who: Who, worst: Amount },
    /// It has ended.
    End { flight: i64, who: Who, spent: Amount, assumed: bool, result: Ended },
    /// A sample of a prompt is settled.
    Outcome { content: Key, sample: u32, outcome: Outcome },
}

/// A teacher and its model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pub(super) teacher: String,
    pub(super) model: String,
}

pub(super) enum Ended {
    Answered(Key, Box<Answer>),
    Failed(Key, Failure),
    /// It will be tried again.
    Again,
}

/// Starts the thread. It ends when all senders are gone.
pub(super) fn start(mut connection: Connection) -> std::io::Result<(Sender<Job>, JoinHandle<()>)> {
    // No longer than there are tasks, since each waits until its write is done.
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("foundry-store".into()).spawn(move || {
        while let Some(jobs) = next(&receiver) {
            let written = write(&mut connection, &jobs).map_err(|error| error.to_string());
            for job in jobs {
                // Whoever asked may have stopped waiting.
                let _ = job.done.send(written.clone());
            }
        }
        // Leaves one file behind, if nobody reads.
        let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    })?;
    Ok((sender, thread))
}

/// What has arrived; `None` at the end.
fn next(receiver: &Receiver<Job>) -> Option<Vec<Job>> {
    let first = receiver.recv().ok()?;
    Some(std::iter::once(first).chain(receiver.try_iter().take(BATCH - 1)).collect())
}

fn write(connection: &mut Connection, jobs: &[Job]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for job in jobs {
        match &job.work {
            Work::Begin { flight, who, worst } => {
                transaction.prepare_cached("INSERT INTO flights VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
                    params![
                        flight,
                        who.teacher,
                        who.model,
                        integer(worst.input),
                        integer(worst.output),
                        worst.cost
                    ],
                )?;
            }
            Work::End { flight, who, spent, assumed, result } => {
                transaction.prepare_cached("DELETE FROM flights WHERE id = ?1")?.execute([flight])?;
                let answered = matches!(result, Ended::Answered(..));
                spend(&transaction, who, *spent, u64::from(*assumed), u64::from(answered))?;
                end(&transaction, who, result)?;
            }
            Work::Outcome { content, sample, outcome } => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO outcomes VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                    .execute(params![
                        content,
                        sample,
                        Key::join(&outcome.answers),
                        outcome.missing,
                        outcome.failure.as_ref().map(|failure| failure.kind.name()),
                        outcome.failure.as_ref().map(|failure| &failure.message),
                        checks(outcome),
                    ])?;
            }
        }
    }
    transaction.commit()
}

/// Adds to what was spent on a teacher: `assumed` of the requests at their worst case, `answered` with an answer.
pub(super) fn spend(
    connection: &Connection,
    who: &Who,
    spent: Amount,
    assumed: u64,
    answered: u64,
) -> rusqlite::Result<()> {
    // A sum that overflows would become a REAL, which is no count any more.
    connection
        .prepare_cached(
            "INSERT INTO spending VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET
             requests = requests + excluded.requests, answers = answers + excluded.answers,
             input = min(input + excluded.input, 9223372036854775807),
             output = min(output + excluded.output, 9223372036854775807), cost = cost + excluded.cost, assumed = assumed + excluded.assumed",
        )?
        .execute(params![
            who.teacher,
            who.model,
            integer(spent.requests),
            integer(answered),
            integer(spent.input),
            integer(spent.output),
            spent.cost,
            integer(assumed)
        ])?;
    Ok(())
}

fn end(connection: &Connection, who: &Who, result: &Ended) -> rusqlite::Result<()> {
    match result {
        Ended::Answered(key, answer) => {
            let logprobs = answer.logprobs.as_ref().map(compressed).transpose()?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO answers VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
                .execute(params![
                    key,
                    who.teacher,
                    who.model,
                    answer.finish,
                    answer.text,
                    answer.usage.map(|usage| integer(usage.input)),
                    answer.usage.map(|usage| integer(usage.output)),
                    answer.cost,
                    logprobs
                ])?;
        }
        Ended::Failed(key, failure) => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO failures VALUES(?1, ?2, ?3, ?4, ?5)")?
                .execute(params![key, who.teacher, who.model, failure.kind.name(), failure.message])?;
        }
        Ended::Again => {}
    }
    Ok(())
}

/// What was found out, as JSON.
fn checks(outcome: &Outcome) -> Option<String> {
    let found = outcome.checks.iter().cloned().map(Value::Object).collect::<Vec<_>>();
    (!found.is_empty()).then(|| Value::Array(found).to_string())
}

/// SQLite's integers have a sign.
fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Log-probabilities are mostly digits and repeated keys.
fn compressed(value: &Value) -> rusqlite::Result<Vec<u8>> {
    let fail = |error: std::io::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).map_err(fail)?;
    encoder.write_all(value.to_string().as_bytes()).map_err(fail)?;
    encoder.finish().map_err(fail)
}
