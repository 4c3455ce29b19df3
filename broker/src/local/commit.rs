//! Group commit: one thread owns the connection, and the calls that arrive while one transaction
//! is under way form the next. No timer, so a lone call waits for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema::wait_for_lock;
use super::tables::Sql;
use crate::error::{Error, Result};

/// Calls that share one transaction at the most; a bigger batch would make its first call wait.
const BATCH: usize = 512;

/// Tries for the lock once the handle is gone: about a second, which is many transactions of others.
const LAST_TRIES: i32 = 1000;

/// What a thread of this kind does with its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `BEGIN IMMEDIATE … COMMIT` around each batch.
    Write,
    /// `BEGIN … COMMIT`: a snapshot to read from.
    Read,
}

type Inbox = mpsc::Receiver<Box<dyn Call>>;

trait Call: Send {
    fn run(&mut self, connection: &Connection) -> Sql<()>;
    fn reply(self: Box<Self>, outcome: Result<()>);
}

struct Pending<F, R> {
    work: F,
    result: Option<R>,
    reply: oneshot::Sender<Result<R>>,
}

impl<F, R> Call for Pending<F, R>
where
    F: FnMut(&Connection) -> Sql<R> + Send,
    R: Send,
{
    fn run(&mut self, connection: &Connection) -> Sql<()> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn reply(self: Box<Self>, outcome: Result<()>) {
        let Self { result, reply, .. } = *self;
        // Whoever asked may be gone; what was done stays done.
        let _ = reply.send(outcome.and_then(|()| result.ok_or(Error::Closed)));
    }
}

/// The handle on the thread.
#[derive(Debug)]
pub(super) struct Committer {
    calls: Option<mpsc::Sender<Box<dyn Call>>>,
    thread: Option<JoinHandle<()>>,
    /// The handle is gone: nobody waits for an answer, so the thread waits for no lock for long.
    ends: Arc<AtomicBool>,
}

impl std::fmt::Debug for dyn Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

impl Committer {
    pub(super) fn start(mut connection: Connection, mode: Mode, place: String) -> Result<Self> {
        let ends = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&ends);
        connection
            .busy_handler(Some(move |tries| {
                (tries < LAST_TRIES || !ended.load(Ordering::SeqCst)) && wait_for_lock(tries)
            }))
            .map_err(|error| explain(&place, &error))?;
        let (calls, inbox) = mpsc::channel::<Box<dyn Call>>();
        let name = if mode == Mode::Write {
            "millhand-commit"
        } else {
            "millhand-read"
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while let Ok(first) = inbox.recv() {
                    transact(&connection, mode, &place, first, &inbox);
                }
            })
            .map_err(|e| Error::unreachable("a thread", e))?;
        Ok(Self {
            calls: Some(calls),
            thread: Some(thread),
            ends,
        })
    }

    /// Runs `work` in a transaction with others. It may be run again when another call of the same
    /// batch fails, so it must not keep anything from a run.
    pub(super) fn call<F, R>(&self, work: F) -> impl Future<Output = Result<R>> + Send + use<F, R>
    where
        F: FnMut(&Connection) -> Sql<R> + Send + 'static,
        R: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let sent = self.calls.as_ref().is_some_and(|c| {
            c.send(Box::new(Pending {
                work,
                result: None,
                reply,
            }))
            .is_ok()
        });
        async move {
            if !sent {
                return Err(Error::Closed);
            }
            answer.await.unwrap_or(Err(Error::Closed))
        }
    }

    /// Like [`call`](Self::call), for a thread that is no async task.
    pub(super) fn call_blocking<F, R>(&self, work: F) -> Result<R>
    where
        F: FnMut(&Connection) -> Sql<R> + Send + 'static,
        R: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Pending {
            work,
            result: None,
            reply,
        });
        self.calls
            .as_ref()
            .and_then(|c| c.send(call).ok())
            .ok_or(Error::Closed)?;
        answer.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Committer {
    /// What was called is still done, unless another process holds the lock for long: none of it was answered, so
    /// none of it was promised.
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // The last handle may be dropped on this very thread, by a call's own state.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn transact(connection: &Connection, mode: Mode, place: &str, first: Box<dyn Call>, inbox: &Inbox) {
    let begin = if mode == Mode::Write {
        "BEGIN IMMEDIATE"
    } else {
        "BEGIN"
    };
    let mut batch = vec![first];
    while !batch.is_empty() {
        if let Err(error) = execute(connection, begin) {
            return fail(batch, place, &error);
        }
        let mut failed = None;
        let mut ran = 0;
        while let Some(call) = batch.get_mut(ran) {
            if let Err(error) = call.run(connection) {
                failed = Some(error);
                break;
            }
            ran += 1;
            // What came meanwhile still comes along; not into a snapshot, which may be older than it.
            if mode == Mode::Write && ran == batch.len() && ran < BATCH {
                batch.extend(inbox.try_recv());
            }
        }
        if let Some(error) = failed {
            // The others must not suffer: back to the start without the one that failed.
            let _ = connection.execute_batch("ROLLBACK");
            batch.remove(ran).reply(Err(explain(place, &error)));
            continue;
        }
        if let Err(error) = execute(connection, "COMMIT") {
            let _ = connection.execute_batch("ROLLBACK");
            return fail(batch, place, &error);
        }
        for call in batch.drain(..) {
            call.reply(Ok(()));
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> Sql<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// What no second try can mend is told from what it may.
fn explain(place: &str, error: &rusqlite::Error) -> Error {
    let problem = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ReadOnly) => "the file or its folder is read-only",
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            "the file is damaged; restore a backup, or move it away to start anew"
        }
        _ => return Error::unreachable(place, error.to_string()),
    };
    Error::Unusable {
        what: place.to_owned(),
        problem: problem.to_owned(),
    }
}

fn fail(batch: Vec<Box<dyn Call>>, place: &str, error: &rusqlite::Error) {
    tracing::warn!(place, %error, calls = batch.len(), "a transaction failed");
    for call in batch {
        call.reply(Err(explain(place, error)));
    }
}
