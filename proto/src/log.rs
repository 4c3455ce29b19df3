//! What a job printed and said during one attempt, as it is kept beside its record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::scan;

/// The log of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptLog {
    /// The number of the attempt.
    #[serde(rename = "n")]
    pub attempt: u32,
    /// Its newest lines, the oldest first.
    #[serde(rename = "l")]
    pub lines: Vec<LogLine>,
    /// How many older lines were dropped.
    #[serde(rename = "d", default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Microseconds since the attempt began.
    #[serde(rename = "a")]
    pub after: u64,
    /// Where it comes from.
    #[serde(rename = "s")]
    pub source: LogSource,
    /// Its text, without the line's end.
    #[serde(rename = "t")]
    pub text: String,
}

/// Where a line of a log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum LogSource {
    /// The standard output of the job's process.
    Out,
    /// The standard error of the job's process.
    Err,
    /// The handler, through its context.
    Said,
}

impl LogSource {
    /// `out`, `err` or `said`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Said => "said",
        }
    }
}

impl From<u8> for LogSource {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Out,
            1 => Self::Err,
            // A source that only a newer build knows must not cost the whole log.
            _ => Self::Said,
        }
    }
}

impl From<LogSource> for u8 {
    fn from(source: LogSource) -> Self {
        match source {
            LogSource::Out => 0,
            LogSource::Err => 1,
            LogSource::Said => 2,
        }
    }
}

impl LogLine {
    /// What a line costs beside its text, at the most, when it is encoded.
    pub const OVERHEAD: usize = 20;

    /// How long after the attempt's beginning.
    #[must_use]
    pub const fn after(&self) -> Duration {
        Duration::from_micros(self.after)
    }
}

impl AttemptLog {
    /// The log as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // The encoder of these types has no way to fail.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        scan(bytes).ok()?;
        rmp_serde::from_slice(bytes).ok()
    }
}

/// How far a running job says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units of work that are done.
    #[serde(rename = "d")]
    pub done: u64,
    /// Units of work in all; 0 when that is not known.
    #[serde(rename = "t")]
    pub total: u64,
}

impl Progress {
    /// The share that is done, 0 to 1, where the whole is known.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        // Beyond 52 bits a share is as good as exact.
        #[expect(clippy::cast_precision_loss)]
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.share() {
            // Rounded down: what is not whole is not 100 %.
            Some(share) => write!(f, "{} of {} ({:.0} %)", self.done, self.total, (share * 100.0).floor()),
            None => write!(f, "{}", self.done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written_and_nothing_else_is_one() {
        let line = |after, source, text: &str| LogLine {
            after,
            source,
            text: text.into(),
        };
        let log = AttemptLog {
            attempt: 3,
            lines: vec![
                line(0, LogSource::Out, "a"),
                line(u64::MAX, LogSource::Said, "größe"),
                line(7, LogSource::Err, ""),
            ],
            dropped: 9,
        };
        let bytes = log.encode();
        assert_eq!(AttemptLog::decode(&bytes), Some(log));
        for cut in 0..bytes.len() {
            assert_eq!(AttemptLog::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn a_line_costs_no_more_than_it_says() {
        let line = LogLine {
            after: u64::MAX,
            source: LogSource::Said,
            text: "x".repeat(crate::limits::LOG_LINE_BYTES),
        };
        let bytes = rmp_serde::to_vec_named(&line).unwrap();
        assert!(bytes.len() <= line.text.len() + LogLine::OVERHEAD, "{}", bytes.len());
    }

    #[test]
    fn progress_in_words() {
        let words = |done, total| Progress { done, total }.to_string();
        assert_eq!(words(42, 100), "42 of 100 (42 %)");
        assert_eq!(words(999, 1000), "999 of 1000 (99 %)");
        assert_eq!(words(7, 0), "7");
        assert_eq!(words(9, 3), "9 of 3 (100 %)");
    }
}
