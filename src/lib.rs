//! Millhand: a distributed task queue. Async for I/O, processes for CPU, both in one worker, chosen
//! per task and by measurement.
//!
//! # The ten-minute tour
//!
//! A **task** is an argument type with a name and an output type. A **job** is one call of it. A
//! **client** enqueues jobs; a **worker** runs them, each on the executor that its registration
//! chose; the back end carries the jobs and remembers how they ended.
//!
//! ```
//! use millhand::{Client, Context, Failure, Task, Worker};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Greet { name: String }
//!
//! impl Task for Greet {
//!     const NAME: &'static str = "greet"; // the name on the wire: renaming it is a migration
//!     type Output = String;
//! }
//!
//! async fn greet(job: Greet, _cx: Context) -> Result<String, Failure> {
//!     Ok(format!("Hello, {}", job.name))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = millhand::memory()?; // or sqlite("jobs.db")?, or fleet("amqp://…", "redis://…")?
//! let client = Client::new(backend.clone());
//! let greeted = client.enqueue(Greet { name: "Ana".into() }).await?; // durable when this returns
//! Worker::new(backend).on_async(greet).run_until_idle().await?; // in a program: `run(shutdown_signal())`
//! match greeted.wait(std::time::Duration::from_secs(5)).await? {
//!     // outer: the system's error; inner: the job's own
//!     Ok(text) => assert_eq!(text, "Hello, Ana"),
//!     Err(failure) => panic!("gave up after {} attempts: {failure}", failure.attempts),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! If `enqueue` returns `Ok`, the job is started at least once and reaches exactly one end. It may
//! be *run* twice when a worker dies; at most one result is recorded. See `docs/architecture.md`.

use std::path::Path;
use std::sync::Arc;

use millhand_broker::BackendUrl;
pub use millhand_broker::{Acted, Backend, JobFilter, JobPage, JobView, QueueView, WorkerHealth, WorkerView};
pub use millhand_client::{Admin, Client, ConnectError, EnqueueError, Enqueued, Handle, Job, JobFailure, WaitError};
pub use millhand_proto::{
    AttemptLog, Blob, Class, Count, Histogram, JobId, LogLine, LogSource, Measure, Numbers, Payload, Profile, Progress,
    QueueName, Receipt, RetryWish, State, Tally, Task, TaskName, TimeLimits, Timestamp, advice, limits,
};
pub use millhand_worker::{
    Blocking, CommandKind, CommandTask, Context, Executor, Failure, Health, Recycle, Slots, TaskOptions, Worker,
    WorkerError, shutdown_signal, snooze,
};

/// A back end in memory on a standing clock, for tests: time jumps to the next delayed job or
/// retry in [`Worker::run_until_idle`].
///
/// # Errors
/// When no thread can be started.
pub fn memory() -> millhand_broker::Result<Arc<dyn Backend>> {
    millhand_broker::memory::Memory::standing()
}

/// RabbitMQ and Redis as one back end: the first carries jobs, the second remembers them. They are
/// connected to at the first use, over TLS where the URLs begin with `amqps://` and `rediss://`
/// (`?ca=FILE`, `?cert=FILE&key=FILE`).
///
/// # Errors
/// When a URL cannot be used, or the two do not fit together.
pub fn fleet(broker: &str, store: &str) -> Result<Arc<dyn Backend>, ConnectError> {
    Ok(millhand_broker::open(&BackendUrl::of(broker, Some(store))?)?)
}

/// A back end in one SQLite file, which is made when there is none.
///
/// # Errors
/// When the file cannot be used.
pub fn sqlite(path: impl AsRef<Path>) -> millhand_broker::Result<Arc<dyn Backend>> {
    millhand_broker::sqlite::Sqlite::open(path)
}

// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
