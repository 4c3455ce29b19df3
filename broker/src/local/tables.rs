//! The tables, one method a statement. Everything runs inside the caller's transaction.

use millhand_proto::{
    Class, JobCopy, JobId, Parcel, QueueName, Record, RecordKey, State, Tally, TaskName, Timestamp, WorkerId,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::view::{Unreadable, WorkerBeat, WorkerView};

pub(super) type Sql<T> = rusqlite::Result<T>;

/// A parcel as it lies in the queue.
pub(super) struct CopyRow {
    pub(super) seq: i64,
    pub(super) queue: String,
    pub(super) class: u8,
    pub(super) due: Timestamp,
    pub(super) held: bool,
    pub(super) redeliveries: u32,
    pub(super) body: bytes::Bytes,
}

/// A parcel on its way into the queue: no more than its row, so that the writing thread neither
/// encodes it nor takes it apart.
pub(super) struct NewCopy {
    key: i64,
    queue: QueueName,
    class: Class,
    due: Option<Timestamp>,
    jobs: usize,
    pub(super) body: Vec<u8>,
}

impl NewCopy {
    pub(super) fn of(parcel: &Parcel) -> Self {
        Self {
            key: key_of(parcel.jobs()[0].id()),
            queue: parcel.queue().clone(),
            class: parcel.class(),
            due: parcel.due(),
            jobs: parcel.jobs().len(),
            body: parcel.encode(),
        }
    }
}

/// Jobs of one parcel have one key; a few parcels more may have it too.
fn key_of(id: JobId) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.parcel_key().as_bytes()[..8]);
    i64::from_be_bytes(first)
}

/// A line of the history.
pub(super) struct EndedRow {
    pub(super) seq: i64,
    pub(super) id: JobId,
    pub(super) at: Timestamp,
    pub(super) state: String,
}

/// A queue's numbers.
pub(super) struct QueueRow {
    pub(super) queue: String,
    pub(super) held: bool,
    pub(super) due: bool,
    pub(super) jobs: u64,
    pub(super) parcels: u64,
    pub(super) oldest: Timestamp,
}

/// The tables of one connection.
pub(super) struct Tables<'c>(pub(super) &'c Connection);

fn time(row: &Row<'_>, at: usize) -> Sql<Timestamp> {
    row.get(at).map(Timestamp::from_micros)
}

fn copy_row(row: &Row<'_>) -> Sql<CopyRow> {
    Ok(CopyRow {
        seq: row.get(0)?,
        queue: row.get(1)?,
        class: row.get(2)?,
        due: time(row, 3)?,
        held: row.get(4)?,
        redeliveries: row.get(5)?,
        body: row.get::<_, Vec<u8>>(6)?.into(),
    })
}

const COPY: &str = "seq, queue, class, due, owner IS NOT NULL, redeliveries, body";

impl Tables<'_> {
    pub(super) fn insert<'a>(&self, copies: impl IntoIterator<Item = &'a NewCopy>, now: Timestamp) -> Sql<()> {
        let mut insert = self
            .0
            .prepare_cached("INSERT INTO copies (key, queue, class, due, jobs, body) VALUES (?, ?, ?, ?, ?, ?)")?;
        for copy in copies {
            insert.execute(params![
                copy.key,
                copy.queue.as_str(),
                copy.class.number(),
                copy.due.unwrap_or(now).as_micros(),
                copy.jobs,
                copy.body,
            ])?;
        }
        Ok(())
    }

    /// Gives due parcels to `worker`, oldest first.
    pub(super) fn take(
        &self,
        queue: &QueueName,
        class: Class,
        worker: WorkerId,
        now: Timestamp,
        limit: usize,
    ) -> Sql<Vec<CopyRow>> {
        // Without a LIMIT: bound, it makes SQLite prepare the statement anew each time.
        let rows = self
            .0
            .prepare_cached(&format!(
                "SELECT {COPY} FROM copies INDEXED BY copies_state
                 WHERE owner IS NULL AND queue = ? AND class = ? AND due <= ? ORDER BY due"
            ))?
            .query_map(params![queue.as_str(), class.number(), now.as_micros()], copy_row)?
            .take(limit)
            .collect::<Sql<Vec<_>>>()?;
        let mut own = self.0.prepare_cached("UPDATE copies SET owner = ? WHERE seq = ?")?;
        for row in &rows {
            own.execute(params![worker.as_bytes(), row.seq])?;
        }
        Ok(rows)
    }

    /// When the next free parcel of the queue is due.
    pub(super) fn next_due(&self, queue: &QueueName) -> Sql<Option<Timestamp>> {
        let mut next: Option<i64> = None;
        for class in Class::ALL {
            let due: Option<i64> = self
                .0
                .prepare_cached(
                    "SELECT min(due) FROM copies INDEXED BY copies_state WHERE owner IS NULL AND queue = ? AND class = ?",
                )?
                .query_row(params![queue.as_str(), class.number()], |r| r.get(0))?;
            next = [next, due].into_iter().flatten().min();
        }
        Ok(next.map(Timestamp::from_micros))
    }

    pub(super) fn delete(&self, seq: i64) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM copies WHERE seq = ?")?
            .execute([seq])?;
        Ok(())
    }

    /// Frees what a worker holds. When it died, its parcels were delivered once more in vain.
    pub(super) fn free(&self, worker: WorkerId, died: bool) -> Sql<usize> {
        self.0.execute(
            "UPDATE copies SET owner = NULL, redeliveries = redeliveries + ? WHERE owner = ?",
            params![died, worker.as_bytes()],
        )
    }

    /// The workers that hold parcels.
    pub(super) fn owners(&self) -> Sql<Vec<WorkerId>> {
        self.0
            .prepare_cached("SELECT DISTINCT owner FROM copies INDEXED BY copies_state WHERE owner IS NOT NULL")?
            .query_map([], |row| row.get(0).map(WorkerId::from_bytes))?
            .collect()
    }

    /// The parcels that may hold a job, in the order they came.
    pub(super) fn copies_of(&self, id: JobId) -> Sql<Vec<CopyRow>> {
        self.0
            .prepare_cached(&format!("SELECT {COPY} FROM copies WHERE key = ? ORDER BY seq"))?
            .query_map([key_of(id)], copy_row)?
            .collect()
    }

    /// Parcels of a queue that are free and due.
    pub(super) fn ready(&self, queue: &QueueName, now: Timestamp, limit: usize) -> Sql<Vec<CopyRow>> {
        self.0
            .prepare_cached(&format!(
                "SELECT {COPY} FROM copies WHERE queue = ? AND owner IS NULL AND due <= ? ORDER BY class, due LIMIT ?"
            ))?
            .query_map(params![queue.as_str(), now.as_micros(), limit], copy_row)?
            .collect()
    }

    /// Looks at parcels, newest first, until `see` says stop.
    pub(super) fn each_copy(&self, mut see: impl FnMut(CopyRow) -> Sql<bool>) -> Sql<()> {
        let mut statement = self
            .0
            .prepare_cached(&format!("SELECT {COPY} FROM copies ORDER BY seq DESC"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !see(copy_row(row)?)? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn queue_numbers(&self, now: Timestamp) -> Sql<Vec<QueueRow>> {
        self.0
            .prepare_cached(
                "SELECT queue, owner IS NOT NULL, due <= ?1, sum(jobs), count(*), min(due) FROM copies INDEXED BY copies_state GROUP BY 1, 2, 3",
            )?
            .query_map([now.as_micros()], |row| {
                Ok(QueueRow {
                    queue: row.get(0)?,
                    held: row.get(1)?,
                    due: row.get(2)?,
                    jobs: row.get(3)?,
                    parcels: row.get(4)?,
                    oldest: time(row, 5)?,
                })
            })?
            .collect()
    }

    pub(super) fn record(&self, key: RecordKey) -> Sql<Option<Record>> {
        let found: Option<Vec<u8>> = self
            .0
            .prepare_cached("SELECT body FROM records WHERE key = ?")?
            .query_row([key.to_bytes()], |r| r.get(0))
            .optional()?;
        // A record that cannot be read is no reason to drop a job: it counts as missing.
        Ok(found.and_then(|body| {
            Record::decode(&body)
                .map_err(|error| tracing::warn!(?key, %error, "a record is taken for missing"))
                .ok()
        }))
    }

    pub(super) fn put_record(&self, key: RecordKey, record: &Record) -> Sql<()> {
        let body = record
            .encode()
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        self.0
            .prepare_cached(
                "INSERT INTO records (key, body) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body",
            )?
            .execute(params![key.to_bytes(), body])?;
        Ok(())
    }

    pub(super) fn delete_record(&self, key: RecordKey) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM records WHERE key = ?")?
            .execute([key.to_bytes()])?;
        Ok(())
    }

    pub(super) fn value(&self, kind: &str, id: JobId) -> Sql<Option<Vec<u8>>> {
        self.0
            .prepare_cached("SELECT body FROM vals WHERE kind = ? AND id = ?")?
            .query_row(params![kind, id.as_bytes()], |r| r.get(0))
            .optional()
    }

    pub(super) fn put_value(&self, kind: &str, id: JobId, body: &[u8]) -> Sql<()> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO vals (kind, id, body) VALUES (?, ?, ?)")?
            .execute(params![kind, id.as_bytes(), body])?;
        Ok(())
    }

    /// Takes away what lies beside a job's record, but for its log.
    pub(super) fn delete_values(&self, id: JobId) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM vals WHERE kind IN ('v', 'b') AND id = ?")?
            .execute([id.as_bytes()])?;
        Ok(())
    }

    pub(super) fn delete_log(&self, id: JobId) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM vals WHERE kind = 'l' AND id = ?")?
            .execute([id.as_bytes()])?;
        Ok(())
    }

    pub(super) fn put_ended(
        &self,
        id: JobId,
        at: Timestamp,
        state: State,
        task: &TaskName,
        queue: &QueueName,
    ) -> Sql<()> {
        self.0
            .prepare_cached("INSERT INTO ended (id, at, state, task, queue) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![
                id.as_bytes(),
                at.as_micros(),
                state.as_str(),
                task.as_str(),
                queue.as_str()
            ])?;
        Ok(())
    }

    /// Looks at the history, newest first, until `see` says stop. Where only states other than
    /// succeeded are wanted, an index leads to them.
    pub(super) fn each_ended(
        &self,
        state: Option<State>,
        task: Option<&str>,
        queue: Option<&str>,
        limit: usize,
        mut see: impl FnMut(EndedRow) -> Sql<bool>,
    ) -> Sql<()> {
        let narrow = match state {
            Some(State::Succeeded) => "state = 'succeeded' AND ?1 IS NOT NULL",
            Some(_) => "state = ?1 AND state <> 'succeeded'",
            None => "?1 IS NULL",
        };
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT seq, id, at, state FROM (SELECT seq, id, at, state, task, queue FROM ended WHERE {narrow} ORDER BY seq DESC LIMIT ?4)
             WHERE (?2 IS NULL OR task = ?2) AND (?3 IS NULL OR queue = ?3)"
        ))?;
        let mut rows = statement.query(params![state.map(State::as_str), task, queue, limit])?;
        while let Some(row) = rows.next()? {
            if !see(ended_row(row)?)? {
                break;
            }
        }
        Ok(())
    }

    /// The oldest lines of the history that ended before `before`.
    pub(super) fn oldest_ended(&self, succeeded: bool, before: Timestamp, limit: usize) -> Sql<Vec<EndedRow>> {
        let sql = if succeeded {
            // Ordered by seq, which is ordered by time: stops when the oldest are young. What is kept
            // longer lies before them and is passed over.
            "SELECT seq, id, at, state FROM (SELECT * FROM ended WHERE state = 'succeeded' ORDER BY seq LIMIT ?2) WHERE at < ?1"
        } else {
            "SELECT seq, id, at, state FROM (SELECT * FROM ended INDEXED BY ended_others WHERE state <> 'succeeded' ORDER BY seq LIMIT ?2) WHERE at < ?1"
        };
        self.0
            .prepare_cached(sql)?
            .query_map(params![before.as_micros(), limit], ended_row)?
            .collect()
    }

    pub(super) fn delete_ended(&self, seq: i64) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM ended WHERE seq = ?")?
            .execute([seq])?;
        Ok(())
    }

    pub(super) fn paused(&self, queue: &str) -> Sql<Option<Timestamp>> {
        let at: Option<Option<i64>> = self
            .0
            .prepare_cached("SELECT paused FROM control WHERE queue = ?")?
            .query_row([queue], |r| r.get(0))
            .optional()?;
        Ok(at.flatten().map(Timestamp::from_micros))
    }

    pub(super) fn set_paused(&self, queue: &QueueName, at: Option<Timestamp>) -> Sql<()> {
        self.0.execute(
            "INSERT INTO control (queue, paused) VALUES (?1, ?2) ON CONFLICT (queue) DO UPDATE SET paused = ?2",
            params![queue.as_str(), at.map(Timestamp::as_micros)],
        )?;
        Ok(())
    }

    pub(super) fn controlled_queues(&self) -> Sql<Vec<String>> {
        self.0
            .prepare_cached("SELECT queue FROM control")?
            .query_map([], |r| r.get(0))?
            .collect()
    }

    /// Keeps bytes that are no parcel, the newest `most` of them.
    pub(super) fn put_unreadable(&self, at: Timestamp, queue: &str, reason: &str, body: &[u8], most: usize) -> Sql<()> {
        self.0
            .prepare_cached("INSERT INTO unreadable (at, queue, reason, body) VALUES (?, ?, ?, ?)")?
            .execute(params![at.as_micros(), queue, reason, body])?;
        self.0
            .prepare_cached("DELETE FROM unreadable WHERE seq <= (SELECT max(seq) FROM unreadable) - ?")?
            .execute([most])?;
        Ok(())
    }

    pub(super) fn unreadable(&self, limit: usize) -> Sql<Vec<(String, Unreadable)>> {
        self.0
            .prepare_cached("SELECT queue, at, reason, length(body) FROM unreadable ORDER BY seq DESC LIMIT ?")?
            .query_map([limit], |r| {
                Ok((
                    r.get(0)?,
                    Unreadable {
                        at: time(r, 1)?,
                        reason: r.get(2)?,
                        bytes: r.get(3)?,
                    },
                ))
            })?
            .collect()
    }

    pub(super) fn add_tally(&self, tally: &Tally) -> Sql<()> {
        let mut add = self.0.prepare_cached(
            "INSERT INTO stats (minute, queue, task, part, n) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET n = n + excluded.n",
        )?;
        for (part, n) in tally.numbers.parts() {
            add.execute(params![
                tally.minute,
                tally.queue.as_str(),
                tally.task.as_str(),
                part,
                n
            ])?;
        }
        Ok(())
    }

    /// The numbers of the minutes from `from` to `to`, the oldest first.
    pub(super) fn tallies(&self, from: u64, to: u64) -> Sql<Vec<Tally>> {
        let mut statement = self.0.prepare_cached(
            "SELECT minute, queue, task, part, n FROM stats WHERE minute BETWEEN ? AND ? ORDER BY minute, queue, task",
        )?;
        let mut rows = statement.query(params![from, to])?;
        let mut tallies: Vec<Tally> = Vec::new();
        while let Some(row) = rows.next()? {
            let minute: u64 = row.get(0)?;
            let (queue, task, part) = (text(row, 1)?, text(row, 2)?, text(row, 3)?);
            let last = tallies.last().filter(|t| t.minute == minute);
            if last.is_none_or(|t| t.queue.as_str() != queue || t.task.as_str() != task) {
                // Rows may have been written by others with names that nobody may use.
                let (Ok(queue), Ok(task)) = (QueueName::new(queue), TaskName::new(task)) else {
                    continue;
                };
                tallies.push(Tally::new(minute, queue, task));
            }
            if let Some(tally) = tallies.last_mut() {
                tally.numbers.add_part(part, row.get(4)?);
            }
        }
        Ok(tallies)
    }

    pub(super) fn forget_tallies(&self, before: u64) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM stats WHERE minute < ?")?
            .execute([before])?;
        Ok(())
    }

    pub(super) fn put_beat(&self, beat: &WorkerBeat, at: Timestamp) -> Sql<()> {
        let queues: Vec<&str> = beat.queues.iter().map(QueueName::as_str).collect();
        let tasks: Vec<&str> = beat.tasks.iter().map(TaskName::as_str).collect();
        self.0
            .prepare_cached("INSERT OR REPLACE INTO workers (id, at, host, pid, started, queues, slots, running, tasks) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?
            .execute(params![
                beat.worker.as_bytes(),
                at.as_micros(),
                beat.host,
                beat.pid,
                beat.started.as_micros(),
                queues.join(" "),
                beat.slots,
                beat.running,
                tasks.join(" ")
            ])?;
        self.put_progress(beat)?;
        // Beside the row, as a value of kind h: the table has no column for it, and the schema stays.
        let Ok(health) = rmp_serde::to_vec_named(&beat.health) else {
            return Ok(());
        };
        self.0
            .prepare_cached("INSERT OR REPLACE INTO vals (kind, id, body) VALUES ('h', ?, ?)")?
            .execute(params![beat.worker.as_bytes(), health])?;
        Ok(())
    }

    fn put_progress(&self, beat: &WorkerBeat) -> Sql<()> {
        if beat.progress.is_empty() {
            return self.delete_progress(beat.worker);
        }
        let progress =
            rmp_serde::to_vec(&beat.progress).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        self.0
            .prepare_cached("INSERT OR REPLACE INTO vals (kind, id, body) VALUES ('p', ?, ?)")?
            .execute(params![beat.worker.as_bytes(), progress])?;
        Ok(())
    }

    fn delete_progress(&self, worker: WorkerId) -> Sql<()> {
        self.0
            .prepare_cached("DELETE FROM vals WHERE kind = 'p' AND id = ?")?
            .execute([worker.as_bytes()])?;
        Ok(())
    }

    pub(super) fn delete_beat(&self, worker: WorkerId) -> Sql<()> {
        self.delete_progress(worker)?;
        self.0
            .execute("DELETE FROM workers WHERE id = ?", [worker.as_bytes()])?;
        self.0
            .execute("DELETE FROM vals WHERE kind = 'h' AND id = ?", [worker.as_bytes()])?;
        Ok(())
    }

    pub(super) fn beats(&self) -> Sql<Vec<WorkerView>> {
        self.0
            .prepare_cached(
                "SELECT w.id, at, host, pid, started, queues, slots, running, tasks,
                   (SELECT body FROM vals WHERE kind = 'p' AND vals.id = w.id),
                   (SELECT body FROM vals WHERE kind = 'h' AND vals.id = w.id)
                 FROM workers w ORDER BY started",
            )?
            .query_map([], |r| {
                let (queues, tasks): (String, String) = (r.get(5)?, r.get(8)?);
                let progress: Option<Vec<u8>> = r.get(9)?;
                let health = r.get_ref(10)?.as_blob_or_null()?;
                // What cannot be read was said by another version.
                let health = health.and_then(|body| rmp_serde::from_slice(body).ok());
                Ok(WorkerView {
                    at: time(r, 1)?,
                    beat: WorkerBeat {
                        worker: WorkerId::from_bytes(r.get(0)?),
                        host: r.get(2)?,
                        pid: r.get(3)?,
                        started: time(r, 4)?,
                        queues: queues.split(' ').filter_map(|q| QueueName::new(q).ok()).collect(),
                        tasks: tasks.split(' ').filter_map(|t| TaskName::new(t).ok()).collect(),
                        slots: r.get(6)?,
                        running: r.get(7)?,
                        progress: progress.map_or_else(Vec::new, |p| rmp_serde::from_slice(&p).unwrap_or_default()),
                        health: health.unwrap_or_default(),
                    },
                })
            })?
            .collect()
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Sql<&'r str> {
    Ok(row.get_ref(column)?.as_str()?)
}

fn ended_row(row: &Row<'_>) -> Sql<EndedRow> {
    let id: Vec<u8> = row.get(1)?;
    let id = <[u8; 16]>::try_from(id).map_err(|_| rusqlite::Error::InvalidColumnType(1, "id".into(), Type::Blob))?;
    Ok(EndedRow {
        seq: row.get(0)?,
        id: JobId::from_bytes(id),
        at: time(row, 2)?,
        state: row.get(3)?,
    })
}

/// The newest copy of `id` in a row, if the row can be read and holds it.
pub(super) fn copy_in(row: &CopyRow, id: JobId) -> Option<JobCopy> {
    let parcel = Parcel::decode(&row.body).ok()?.parcel?;
    parcel
        .into_jobs()
        .into_iter()
        .filter(|job| job.id() == id)
        .max_by_key(|job| job.hop.hand)
}
