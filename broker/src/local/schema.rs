//! The file: what it holds, and how it is opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};

/// Marks the file as Millhand's: "MLHD".
const APPLICATION: i64 = 0x4d4c_4844;
/// The version of the schema below.
const VERSION: usize = STEPS.len();

// Times are microseconds, ids 16 bytes, record keys 17 (`p` or `o` before the id).
const SCHEMA: &str = "
-- The queue: parcels. `due` is when a parcel may be taken, `owner` the worker that holds it, `key`
-- the first 8 bytes of its record's id: short, and nearly always enough to find it.
CREATE TABLE copies (
  seq INTEGER PRIMARY KEY,
  key INTEGER NOT NULL,
  queue TEXT NOT NULL,
  class INTEGER NOT NULL,
  due INTEGER NOT NULL,
  jobs INTEGER NOT NULL,
  owner BLOB,
  redeliveries INTEGER NOT NULL DEFAULT 0,
  body BLOB NOT NULL
) STRICT;
-- What is free and due, what a worker holds, and the numbers of a queue, without touching bodies.
CREATE INDEX copies_state ON copies (owner, queue, class, due, jobs);
CREATE INDEX copies_key ON copies (key);
-- The store: records, and values beside them (v: results, b: the copies of dead
-- jobs, l: logs; under a worker's id p: the progress of its jobs, h: its health).
CREATE TABLE records (key BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE vals (kind TEXT NOT NULL, id BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID;
-- History: a log, oldest first.
CREATE TABLE ended (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  at INTEGER NOT NULL,
  state TEXT NOT NULL,
  task TEXT NOT NULL,
  queue TEXT NOT NULL
) STRICT;
CREATE INDEX ended_others ON ended (state, seq) WHERE state <> 'succeeded';
CREATE TABLE control (queue TEXT PRIMARY KEY, paused INTEGER, purged INTEGER) STRICT;
CREATE TABLE unreadable (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, queue TEXT NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE workers (
  id BLOB PRIMARY KEY, at INTEGER NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
  started INTEGER NOT NULL, queues TEXT NOT NULL, slots INTEGER NOT NULL, running INTEGER NOT NULL
) STRICT;
";

// What happened, minute by minute, as numbers that add up; and what workers run.
const STATS: &str = "
CREATE TABLE stats (
  minute INTEGER NOT NULL, queue TEXT NOT NULL, task TEXT NOT NULL, part TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (minute, queue, task, part)
) STRICT, WITHOUT ROWID;
ALTER TABLE workers ADD COLUMN tasks TEXT NOT NULL DEFAULT '';
";

/// What leads from no file to version 1, and from each version to the next.
const STEPS: [&str; 2] = [SCHEMA, STATS];

/// Opens a database in memory.
pub(super) fn in_memory() -> Result<Connection> {
    let connection = Connection::open_in_memory().map_err(|e| Error::unreachable("memory:", e))?;
    connection
        .execute_batch(&STEPS.concat())
        .map_err(|e| Error::unreachable("memory:", e))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens the file, makes it when there is none, and checks that it is ours and not newer.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let shown = format!("sqlite:{}", path.display());
    let unusable = |problem: String| Error::Unusable {
        what: shown.clone(),
        problem,
    };
    let explain = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => unusable("the file is not a SQLite database".into()),
        Some(rusqlite::ErrorCode::CannotOpen) => {
            unusable("the file cannot be opened or made; check the path and its rights".into())
        }
        Some(rusqlite::ErrorCode::ReadOnly) => unusable("the file or its folder is read-only".into()),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            unusable("the file is damaged; restore a backup, or move it away to start anew".into())
        }
        _ => Error::unreachable(&shown, e),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_handler(Some(wait_for_lock)).map_err(explain)?;
    // In this order: another process may be making the file, and writes both at once.
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0))
        .map_err(explain)?;
    let application: i64 = connection
        .query_row("PRAGMA application_id", [], |r| r.get(0))
        .map_err(explain)?;
    if application != APPLICATION && tables > 0 {
        return Err(unusable("the file is a SQLite database of another program".into()));
    }
    // The change to WAL takes a lock that the busy handler is not asked about.
    let mut tries = 0;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => break,
            Ok(mode) => {
                return Err(unusable(format!(
                    "it cannot be used with a write-ahead log ({mode}); network folders cannot"
                )));
            }
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && tries < 500 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(explain(e)),
        }
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16000;")
        .map_err(explain)?;
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |r| r.get::<_, usize>(0));
    // What is there already is opened without the lock, which another process may hold for long: workers start
    // also then, and wait with their first delivery.
    if version(&connection).map_err(explain)? != VERSION {
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(explain)?;
        // Another process may have been first.
        let version = version(&transaction).map_err(explain)?;
        let Some(steps) = STEPS.get(version..) else {
            return Err(unusable(format!(
                "its version {version} is newer than this build knows ({VERSION}); update millhand"
            )));
        };
        if !steps.is_empty() {
            transaction.execute_batch(&steps.concat()).map_err(explain)?;
            transaction
                .pragma_update(None, "application_id", APPLICATION)
                .map_err(explain)?;
            transaction
                .pragma_update(None, "user_version", VERSION)
                .map_err(explain)?;
        }
        transaction.commit().map_err(explain)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Waits for another process's transaction. SQLite's own handler sleeps up to 100 ms at a time, which is many
/// transactions long. The lock goes to whoever looks when it is free, so who has waited for some time looks more
/// often than who has just come; who has waited for long does not: it is not a transaction that takes so long.
pub(super) fn wait_for_lock(tries: i32) -> bool {
    let micros = match tries {
        ..4 => 300,
        4..500 => 100,
        _ => 2000,
    };
    std::thread::sleep(Duration::from_micros(micros));
    tries < 15_000
}
