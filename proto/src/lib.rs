//! The values of Millhand and its rules, pure: no I/O, no clock, no threads.
//!
//! [`wire`] says how a parcel travels, [`record`] what a store remembers, and [`protocol`] holds
//! every decision about a job's life as a pure function.

pub mod class;
pub mod id;
pub mod limits;
pub mod name;
pub mod payload;
pub mod policy;
pub mod task;
pub mod time;
pub mod wire;

pub use class::Class;
pub use id::{JobId, Mailbox, RecordKey, WorkerId};
pub use name::{NameError, Namespace, QueueName, TaskName};
pub use payload::{Codec, Payload, PayloadError};
pub use policy::{RetryPolicy, RetryWish, TimeLimits};
pub use task::Task;
pub use time::Timestamp;
pub use wire::{Core, Hop, JobCopy, Opened, Parcel, Parked, WireError};
