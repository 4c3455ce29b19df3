//! The states of a job, and which may follow which.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job is in its life. Attempts fail; jobs die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its time (delayed or snoozed).
    Scheduled,
    /// Waits for a worker.
    Queued,
    /// Runs.
    Running,
    /// An attempt failed; waits for the next.
    Retrying,
    /// Ended with a result.
    Succeeded,
    /// Will not be tried again; people look at it, retry it or drop it.
    Dead,
    /// Was cancelled before it could succeed.
    Cancelled,
    /// Was not started in time.
    Expired,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Its word, everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing more will happen to the job by itself.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled | Self::Expired)
    }

    /// The legal moves. Staying is always legal: a swap may be repeated.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use State::{Cancelled, Dead, Expired, Queued, Retrying, Running, Scheduled, Succeeded};
        match (self, next) {
            // Waiting jobs trade places among themselves, start, or end without a run.
            (Scheduled | Queued | Retrying, Scheduled | Queued | Retrying | Running | Dead | Cancelled | Expired) => {
                true
            }
            // A stop leads anywhere: given back, snoozed, retried, ended.
            (Running, _) => true,
            // An operator's retry.
            (Dead, Queued | Dead) => true,
            (Succeeded, Succeeded) | (Cancelled, Cancelled) | (Expired, Expired) => true,
            _ => false,
        }
    }
}

impl std::str::FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            format!("state {text:?} is none of {}", words.join(", "))
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
