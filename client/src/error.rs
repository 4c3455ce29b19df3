//! Errors, by what the caller can do.

use std::time::Duration;

use millhand_broker::{Error, UrlError};
use millhand_proto::{JobId, NameError, PayloadError, Timestamp, limits};

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL names no back end: mend it.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The back end cannot be opened.
    #[error(transparent)]
    Backend(#[from] Error),
}

/// A job that nothing can be done with: mend it. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJob {
    /// The name of its task or queue.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its arguments cannot be encoded.
    #[error("the arguments: {0}")]
    Args(#[from] PayloadError),
    /// Its arguments are too big.
    #[error(
        "the arguments have {bytes} bytes; the limit \"arguments\" is {limit} bytes: \
         store them elsewhere and send where they are"
    )]
    ArgsTooBig {
        /// How many they are.
        bytes: usize,
        /// How many they may be.
        limit: usize,
    },
    /// A time lies too far ahead.
    #[error("{what} lies {} ahead; the limit \"horizon\" is {}", days(*.ahead), days(limits::HORIZON))]
    TooFar {
        /// `the delay` or `the expiry`.
        what: &'static str,
        /// How far.
        ahead: Duration,
    },
    /// A time that is no plausible time in microseconds.
    #[error("{what} ({at}) is before 2001 or after 9999: was it given in seconds or milliseconds?")]
    BadTime {
        /// `not_before` or `expires_at`.
        what: &'static str,
        /// The time.
        at: Timestamp,
    },
    /// It would expire before it is due.
    #[error("the job would expire before it is due")]
    ExpiresFirst,
    /// A time limit of nothing.
    #[error("a timeout of 0 leaves no time to run")]
    NoTime,
    /// Too many tags, or one that is empty or too long.
    #[error("a job has at most {} tags of 1 to {} bytes", limits::TAGS, limits::TAG_BYTES)]
    Tags,
    /// An empty id.
    #[error("an id must not be empty")]
    EmptyId,
}

fn days(span: Duration) -> String {
    format!("{:.1} days", span.as_secs_f64() / 86_400.0)
}

/// A job was not enqueued, or nobody can say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The job itself is wrong: mend it. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidJob),
    /// The back end did not take it, or could not be reached in time; it is not there and never will
    /// be.
    #[error("job {id} was not enqueued: {why}")]
    Rejected {
        /// The job.
        id: JobId,
        /// Why.
        why: String,
    },
    /// It may or may not be there. Enqueueing it again with this id is safe.
    #[error("nobody can say whether job {id} was enqueued ({why}); enqueue it again with the same id")]
    Unknown {
        /// The job.
        id: JobId,
        /// Why.
        why: String,
    },
}

/// A wait ended without the job's end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is up; the job goes on, and waiting again is fine.
    #[error("job {id} did not end within {after:?}")]
    TimedOut {
        /// The job.
        id: JobId,
        /// How long was waited.
        after: Duration,
    },
    /// The job was there, and nothing is known of it any more: it ended longer ago than ended
    /// jobs are remembered, was dropped, or the store lost its memory and the job may still run.
    #[error("job {id} is forgotten: it was last known at {since}")]
    Forgotten {
        /// The job.
        id: JobId,
        /// When it was last known of.
        since: Timestamp,
    },
    /// Nothing is known of such a job.
    #[error("nothing is known of job {0}")]
    Unknown(JobId),
    /// It succeeded, but its result is not kept.
    #[error("job {0} succeeded, and its result is not kept")]
    NoResult(JobId),
    /// It succeeded, but its result is no value of the task's output type.
    #[error("the result of job {id}: {source}")]
    BadResult {
        /// The job.
        id: JobId,
        /// What is wrong.
        source: PayloadError,
    },
    /// The back end failed.
    #[error(transparent)]
    Backend(#[from] std::sync::Arc<Error>),
}
