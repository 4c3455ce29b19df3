//! The values of Millhand and its rules, pure: no I/O, no clock, no threads.
//!
//! [`wire`] says how a parcel travels, [`record`] what a store remembers, and [`protocol`] holds
//! every decision about a job's life as a pure function.

pub mod advice;
pub mod class;
pub mod executor;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod histogram;
pub mod id;
pub mod limits;
pub mod log;
pub mod name;
pub mod outcome;
pub mod payload;
pub mod policy;
pub mod profile;
pub mod protocol;
pub mod receipt;
pub mod record;
#[doc(hidden)]
pub mod sabotage;
pub mod state;
pub mod tally;
pub mod task;
pub mod time;
pub mod wire;
pub mod words;

pub use advice::{Advice, Figures};
pub use class::Class;
pub use executor::Executor;
pub use histogram::Histogram;
pub use id::{JobId, Mailbox, RecordKey, WorkerId};
pub use log::{AttemptLog, LogLine, LogSource, Progress};
pub use name::{NameError, Namespace, QueueName, TaskName};
pub use outcome::{AttemptEnd, CrashCause, ErrorText, Outcome, TimeLimit};
pub use payload::{Blob, Codec, Payload, PayloadError};
pub use policy::{RetryPolicy, RetryWish, TimeLimits};
pub use profile::{Measure, Profile};
pub use receipt::Receipt;
pub use record::{AttemptNote, Entry, Fence, Leaving, Record, Successor};
pub use state::State;
pub use tally::{Count, Numbers, Tally};
pub use task::Task;
pub use time::Timestamp;
pub use wire::{Core, Hop, JobCopy, Opened, Parcel, Parked, WireError};
