//! The store: every prompt, request, answer and outcome of a set, in one SQLite file.
//!
//! A request is found by its content: teacher, model, parameters, messages and number of the sample. Its answer is on the
//! disk before anything counts it. So a run can be killed at any moment, and the next goes on without asking twice.

mod key;
mod read;
mod schema;
mod writer;

pub use key::Key;
pub use read::{Spending, Stage, Status, StoreReader, StoredPrompt};

use super::budget::Amount;
use super::prompts::Prompt;
use super::teacher::{Answer, Failure, Spent};
use anyhow::{Context, Result, anyhow, bail};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use writer::{Ended, Job, Who, Work};

/// A store that this process writes. No other can at the same time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Looks up answers; the writer's transactions do not hold it up.
    lookup: Mutex<Connection>,
    next_flight: AtomicI64,
    _lock: File,
}

/// What became of a sample of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The answers that are kept, in order.
    pub answers: Vec<Key>,
    /// Requests of it that failed for good although others brought answers.
    pub missing: u32,
    /// Why there is no answer.
    pub failure: Option<Failure>,
    /// What was found out about each answer, by the name of the check; shorter than `answers` where nothing was.
    pub checks: Vec<Map<String, Value>>,
}

/// An answer or a failure that is on the disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// The text, and why it ended.
    Answer {
        /// The text.
        text: String,
        /// Why it ended.
        finish: String,
    },
    /// It failed for good.
    Failure(Failure),
}

/// A request on its way. If it is dropped, the store counts its worst case when it is opened the next time.
#[derive(Debug)]
pub struct Flight {
    id: i64,
    who: Who,
}

impl Store {
    /// Opens a store, or makes one. What was under way when the last run was killed counts as spent, at its worst case.
    ///
    /// # Errors
    /// When another process has it, when it is no store, or the disk cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock =
            File::create(&lock_path).with_context(|| format!("cannot write {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another process works with the store {}: wait for it, or choose another --store",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        let connection = schema::open_to_write(path)?;
        settle_lost(&connection).with_context(|| format!("cannot write the store {}", path.display()))?;
        let lookup = schema::open_to_read(path)?;
        let (jobs, thread) = writer::start(connection).context("cannot start a thread")?;
        Ok(Store {
            path: path.to_owned(),
            jobs: Some(jobs),
            thread: Some(thread),
            lookup: Mutex::new(lookup),
            next_flight: AtomicI64::new(1),
            _lock: lock,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.lookup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known about a request.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, key: Key) -> Result<Option<Stored>> {
        let connection = self.lock();
        let answer = connection
            .prepare_cached("SELECT text, finish FROM answers WHERE key = ?1")?
            .query_row([key], |row| Ok(Stored::Answer { text: row.get(0)?, finish: row.get(1)? }))
            .optional()?;
        if answer.is_some() {
            return Ok(answer);
        }
        let failure = connection
            .prepare_cached("SELECT kind, message FROM failures WHERE key = ?1")?
            .query_row([key], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .optional()?;
        Ok(failure.map(|(kind, message)| Stored::Failure(read::failure(&kind, &message))))
    }

    async fn write(&self, work: Work) -> Result<()> {
        let (done, written) = oneshot::channel();
        let gone = || anyhow!("the store {} is closed", self.path.display());
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { work, done }).map_err(|_| gone())?;
        let written = written.await.map_err(|_| gone())?;
        written.map_err(|why| anyhow!("cannot write the store {}: {why}", self.path.display()))
    }

    /// Notes that a request is about to be sent, with its worst case.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub async fn begin(&self, teacher: &str, model: &str, worst: Amount) -> Result<Flight> {
        let who = Who { teacher: teacher.to_owned(), model: model.to_owned() };
        let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
        self.write(Work::Begin { flight: id, who: who.clone(), worst }).await?;
        Ok(Flight { id, who })
    }

    /// Stores an answer, and what it cost.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub async fn answered(&self, flight: Flight, key: Key, answer: Answer, spent: Amount) -> Result<()> {
        let Flight { id, who } = flight;
        let (assumed, result) = (answer.usage.is_none(), Ended::Answered(key, Box::new(answer)));
        self.write(Work::End { flight: id, who, spent, assumed, result }).await
    }

    /// Stores that a request failed, `for_good` or to be tried again, and what it cost.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub async fn failed(
        &self,
        flight: Flight,
        key: Key,
        failure: &Failure,
        for_good: bool,
        spent: Amount,
    ) -> Result<()> {
        let Flight { id, who } = flight;
        let assumed = failure.spent == Spent::Unknown;
        let result = if for_good { Ended::Failed(key, failure.clone()) } else { Ended::Again };
        self.write(Work::End { flight: id, who, spent, assumed, result }).await
    }

    /// Stores what became of a sample of a prompt.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub async fn settle(&self, content: Key, sample: u32, outcome: Outcome) -> Result<()> {
        self.write(Work::Outcome { content, sample, outcome }).await
    }

    /// Replaces the list of prompts. `address` gives what a prompt's outcomes are found by. Returns the number of prompts, and of
    /// those left out because they are the same as an earlier one in everything, id included.
    ///
    /// # Errors
    /// When a prompt cannot be read, two that differ have one id, or the disk cannot be written.
    pub fn set_prompts(
        &self,
        prompts: impl Iterator<Item = Result<Prompt>>,
        address: impl Fn(&Prompt) -> Result<Key>,
    ) -> Result<(u64, u64)> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM prompts", [])?;
        let (mut count, mut copies) = (0i64, 0);
        {
            let mut insert = transaction.prepare("INSERT OR IGNORE INTO prompts VALUES(?1, ?2, ?3, ?4)")?;
            let mut same = transaction.prepare("SELECT body FROM prompts WHERE id = ?1")?;
            for prompt in prompts {
                let prompt = prompt?;
                let content = address(&prompt)?;
                let id = match &prompt.id {
                    Some(id) => id.clone(),
                    None => Key::of("id", &prompt)?.hex()[..16].to_owned(),
                };
                let body = serde_json::to_string(&prompt)?;
                if insert.execute(params![count, id, content, body])? == 1 {
                    count += 1;
                } else if same.query_row([&id], |row| row.get::<_, String>(0))? == body {
                    copies += 1;
                } else {
                    bail!("two prompts have the id {id:?}, and differ");
                }
            }
        }
        transaction.commit().with_context(|| format!("cannot write the store {}", self.path.display()))?;
        Ok((count as u64, copies))
    }

    /// Prompts after `position` that have fewer than `samples` outcomes, in order; at most `most`. Of those that have the same
    /// content, whose outcomes are the same, only the first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open_prompts(&self, position: i64, samples: u32, most: usize) -> Result<Vec<StoredPrompt>> {
        read::open_prompts(&self.lock(), position, samples, most)
    }

    /// The samples of a prompt that are settled.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn settled(&self, content: Key) -> Result<Vec<u32>> {
        let connection = self.lock();
        let mut query = connection.prepare_cached("SELECT sample FROM outcomes WHERE content = ?1")?;
        let samples = query.query_map([content], |row| row.get(0))?;
        Ok(samples.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets failures, so that they are tried again. Returns how many samples that are.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn forget_failures(&self) -> Result<usize> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM failures", [])?;
        let samples =
            transaction.execute("DELETE FROM outcomes WHERE kind IS NOT NULL OR missing > 0", [])?;
        transaction.commit()?;
        Ok(samples)
    }

    /// Reads a fact about the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        read::meta(&self.lock(), key)
    }

    /// Writes a fact about the store.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.lock().execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", [key, value])?;
        Ok(())
    }

    /// A reader of the same store.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reader(&self) -> Result<StoreReader> {
        StoreReader::open(&self.path)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Counts the requests that were under way when a run was killed, at their worst case.
fn settle_lost(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    {
        let mut lost = transaction.prepare("SELECT teacher, model, input, output, cost FROM flights")?;
        let mut rows = lost.query([])?;
        while let Some(row) = rows.next()? {
            let count = |at: usize| row.get::<_, i64>(at).map(|n| n as u64);
            let who = Who { teacher: row.get(0)?, model: row.get(1)? };
            let amount = Amount { requests: 1, input: count(2)?, output: count(3)?, cost: row.get(4)? };
            writer::spend(&transaction, &who, amount, 1, 0)?;
        }
    }
    transaction.execute("DELETE FROM flights", [])?;
    transaction.commit()
}
