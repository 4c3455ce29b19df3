//! How an attempt ended, and how a job did.

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
    /// It was stopped at its hard limit.
    TimedOut(Duration),
    /// Its process ended under it.
    Crashed(ErrorText),
    /// It was stopped because the worker stops; it goes back uncounted.
    Interrupted,
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
    /// At its hard limit.
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
