//! The tables of a store, and how its file is opened.

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// "DXFS": tells a store from any other SQLite file.
const APPLICATION_ID: i64 = 0x4458_4653;
const VERSION: i64 = 1;

const TABLES: &str = "
-- Facts about the store: `settings` are those of the last run.
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Answers by the address of their request.
CREATE TABLE answers(key BLOB PRIMARY KEY, teacher TEXT NOT NULL, model TEXT NOT NULL, finish TEXT NOT NULL,
    text TEXT NOT NULL, input INTEGER, output INTEGER, cost REAL, logprobs BLOB);
-- Requests that failed for good.
CREATE TABLE failures(key BLOB PRIMARY KEY, teacher TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL);
-- Requests under way, with their worst case. What is here at the start was under way when the last run was killed.
CREATE TABLE flights(id INTEGER PRIMARY KEY, teacher TEXT NOT NULL, model TEXT NOT NULL, input INTEGER NOT NULL,
    output INTEGER NOT NULL, cost REAL NOT NULL);
-- What was spent. `assumed` counts requests whose true cost is not known, for which the worst case stands.
CREATE TABLE spending(teacher TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL, answers INTEGER NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL, cost REAL NOT NULL, assumed INTEGER NOT NULL, PRIMARY KEY(teacher, model)) WITHOUT ROWID;
-- The prompts of the last run in their order; `content` is the address of what an outcome depends on.
CREATE TABLE prompts(position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content BLOB NOT NULL, body TEXT NOT NULL);
CREATE INDEX prompts_content ON prompts(content);
-- What became of a sample of a prompt: the addresses of its answers, or why there is none.
CREATE TABLE outcomes(content BLOB NOT NULL, sample INTEGER NOT NULL, answers BLOB NOT NULL, missing INTEGER NOT NULL,
    kind TEXT, message TEXT, checks TEXT, PRIMARY KEY(content, sample)) WITHOUT ROWID;
";

/// Opens the connection that writes, creating the store if there is none.
pub(super) fn open_to_write(path: &Path) -> Result<Connection> {
    let connection =
        Connection::open(path).with_context(|| format!("cannot open the store {}", path.display()))?;
    prepare(&connection, path, true)?;
    Ok(connection)
}

/// Opens a connection that only reads, which may be at the same time as another process writes.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    ensure!(path.is_file(), "there is no store {}", path.display());
    // Reading a log that another process writes takes access to its index.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .with_context(|| format!("cannot open the store {}", path.display()))?;
    prepare(&connection, path, false)?;
    Ok(connection)
}

fn prepare(connection: &Connection, path: &Path, writes: bool) -> Result<()> {
    let name = path.display();
    let broken = || format!("{name} cannot be read as a store of the foundry");
    connection.busy_timeout(Duration::from_secs(20))?;
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").with_context(broken)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
        .with_context(broken)?;
    if tables == 0 && writes {
        connection.pragma_update(None, "journal_mode", "WAL").with_context(broken)?;
        let create = format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        );
        connection.execute_batch(&create).with_context(|| format!("cannot write the store {name}"))?;
    } else {
        ensure!(application == APPLICATION_ID, "{name} is not a store of the foundry");
        match pragma("user_version")? {
            VERSION => {}
            other => bail!("the store {name} has version {other}, this program reads version {VERSION}"),
        }
    }
    // The log is flushed at each commit: what was paid for outlives a power failure.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}
