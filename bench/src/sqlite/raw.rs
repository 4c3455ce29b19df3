//! What the same file does without Millhand: a table, an index, prepared statements.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

/// One table of jobs in one file.
pub(crate) struct Raw(Connection);

impl Raw {
    /// With the pragmas of the broker (`broker/src/local/schema.rs`).
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16000;
             CREATE TABLE jobs (
               id INTEGER PRIMARY KEY, queue TEXT NOT NULL, due INTEGER NOT NULL,
               state TEXT NOT NULL, owner BLOB, body BLOB NOT NULL, result BLOB
             ) STRICT;
             CREATE INDEX jobs_ready ON jobs (queue, due) WHERE owner IS NULL;",
        )?;
        Ok(Self(connection))
    }

    /// Inserts in transactions of `batch` rows.
    pub(crate) fn insert(&mut self, bodies: &[Vec<u8>], batch: usize) -> Result<()> {
        for bodies in bodies.chunks(batch) {
            let transaction = self.0.transaction()?;
            {
                let mut insert = transaction
                    .prepare_cached("INSERT INTO jobs (queue, due, state, body) VALUES ('default', ?, 'queued', ?)")?;
                for body in bodies {
                    insert.execute(params![now(), body])?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    /// Claims `batch` jobs in one transaction and ends them in another, until none is left.
    pub(crate) fn drain(&mut self, jobs: usize, batch: usize) -> Result<()> {
        let owner = [7u8; 16];
        // The limit is no parameter: SQLite would prepare the statement anew whenever it is bound.
        let claim = format!(
            "UPDATE jobs SET owner = ?1, state = 'running' WHERE id IN (
               SELECT id FROM jobs INDEXED BY jobs_ready
               WHERE queue = 'default' AND owner IS NULL AND due <= ?2 ORDER BY due LIMIT {batch})
             RETURNING id, body"
        );
        let mut done = 0;
        loop {
            let transaction = self.0.transaction()?;
            let claimed: Vec<(i64, Vec<u8>)> = transaction
                .prepare_cached(&claim)?
                .query_map(params![owner, now()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            transaction.commit()?;
            if claimed.is_empty() {
                break;
            }
            let transaction = self.0.transaction()?;
            {
                let mut end = transaction
                    .prepare_cached("UPDATE jobs SET state = 'done', result = ?3 WHERE id = ?1 AND owner = ?2")?;
                for (id, body) in &claimed {
                    let result = [u8::try_from(body.len() % 256)?];
                    done += end.execute(params![id, owner, result])?;
                }
            }
            transaction.commit()?;
        }
        ensure!(done == jobs, "the raw loop ended {done} of {jobs} jobs");
        Ok(())
    }

    /// How long one transaction with one small row takes.
    pub(crate) fn commits(&mut self, bodies: &[Vec<u8>]) -> Result<Vec<Duration>> {
        bodies
            .chunks(1)
            .map(|body| {
                let started = Instant::now();
                self.insert(body, 1)?;
                Ok(started.elapsed())
            })
            .collect()
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
