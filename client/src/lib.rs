//! The producer's side: enqueue jobs, wait for them, cancel them, and what operators do.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use millhand_client::{Client, Job};
//! use millhand_proto::Task;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Resize { image: u64, width: u32 }
//!
//! impl Task for Resize {
//!     const NAME: &'static str = "resize";
//!     type Output = String;
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("sqlite:millhand.db").await?;
//! let resized = client.enqueue(Resize { image: 7, width: 640 }).await?; // durable when this returns
//! client.enqueue(Job::of(Resize { image: 8, width: 640 }).queue("slow").delay(Duration::from_secs(300))).await?;
//! match resized.wait(Duration::from_secs(30)).await? { // outer: the system's error; inner: the job's own
//!     Ok(url) => println!("{url}"),
//!     Err(failure) => eprintln!("gave up after {} attempts: {failure}", failure.attempts),
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod client;
mod error;
#[cfg(test)]
mod fake;
mod handle;
mod job;
mod pack;
mod waits;

pub use admin::Admin;
pub use client::{Client, Enqueued};
pub use error::{ConnectError, EnqueueError, InvalidJob, WaitError};
pub use handle::{Handle, JobFailure};
pub use job::{Job, RawJob};
