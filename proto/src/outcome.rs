//! How an attempt ended, and how a job did.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::payload::Payload;

/// What is kept of an error: its text, cut at [`limits::ERROR_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorText(String);

impl ErrorText {
    /// Keeps `text`, cut at a character boundary and marked where it was cut.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > limits::ERROR_BYTES {
            let mut end = limits::ERROR_BYTES - 8;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str(" …[cut]");
            text.truncate(limits::ERROR_BYTES);
        }
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How one attempt ended: a closed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Succeeded(Payload),
    /// With an error that another attempt may mend.
    Failed {
        /// What went wrong.
        error: ErrorText,
        /// When the handler wants the next attempt; `None` leaves it to the policy.
        retry_in: Option<Duration>,
    },
    /// With an error that no other attempt will mend; `reason` is a short code.
    Fatal {
        /// Why, as a code: `failed`, `bad_arguments`, `result_too_big`.
        reason: String,
        /// What went wrong.
        error: ErrorText,
    },
    /// It wants to run again later; no attempt is counted.
    Snoozed(Duration),
    /// It was stopped because the job was cancelled.
    Cancelled,
    /// It ended because of a time limit.
    TimedOut(TimeLimit),
    /// Its process ended under it, or was ended for what it did.
    Crashed {
        /// Why.
        cause: CrashCause,
        /// The same for people, with its last words.
        error: ErrorText,
    },
    /// It was stopped because the worker stops; it goes back uncounted.
    Interrupted,
}

/// The time limit at which an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// It was asked to end, and did.
    Soft(Duration),
    /// It was stopped.
    Hard(Duration),
}

impl fmt::Display for TimeLimit {
    /// What the record says of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soft(limit) => write!(f, "ended at its soft limit of {limit:?}"),
            Self::Hard(limit) => write!(f, "stopped at its time limit of {limit:?}"),
        }
    }
}

/// Why a job's process is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashCause {
    /// A signal ended it, by its name: `SIGSEGV`.
    Signal(String),
    /// It ended by itself, with this exit code and without an answer.
    Exit(i32),
    /// It was killed because it held more memory than it may.
    Memory,
    /// What it said was not what the child protocol allows; it was killed.
    Protocol,
    /// It closed its end of the socket and did not end; it was killed.
    Closed,
}

impl CrashCause {
    /// Its code, as a record keeps it: `SIGSEGV`, `exit_3`, `memory_limit`, `protocol`, `closed`.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Signal(name) => name.clone(),
            Self::Exit(code) => format!("exit_{code}"),
            Self::Memory => "memory_limit".to_owned(),
            Self::Protocol => "protocol".to_owned(),
            Self::Closed => "closed".to_owned(),
        }
    }
}

/// The word for how an attempt ended, as a record keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// With a result.
    Succeeded,
    /// With an error.
    Failed,
    /// It asked for a later run.
    Snoozed,
    /// The job was cancelled.
    Cancelled,
    /// At its soft or its hard limit.
    TimedOut,
    /// Its process ended under it.
    Crashed,
    /// Its worker stopped and gave it back.
    Interrupted,
    /// Its worker died.
    WorkerLost,
}

impl AttemptEnd {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Snoozed => "snoozed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::Interrupted => "interrupted",
            Self::WorkerLost => "worker_lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_says_which_it_was() {
        let three = Duration::from_secs(3);
        assert_eq!(TimeLimit::Soft(three).to_string(), "ended at its soft limit of 3s");
        assert_eq!(TimeLimit::Hard(three).to_string(), "stopped at its time limit of 3s");
    }
}
