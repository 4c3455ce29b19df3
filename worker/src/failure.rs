//! How a handler says that it could not do its job.

use std::fmt;
use std::time::Duration;

use millhand_proto::{ErrorText, Outcome};

/// Why an attempt failed, and what is to follow.
///
/// Any error becomes a retryable failure through `?`, with the text of its whole source chain. For
/// that reason `Failure` is no `std::error::Error` itself.
///
/// ```
/// # use millhand_worker::Failure;
/// fn read(path: &str) -> Result<String, Failure> {
///     if path.is_empty() {
///         return Err(Failure::fatal("no path was given"));
///     }
///     Ok(std::fs::read_to_string(path)?)
/// }
/// # assert!(read("").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    text: String,
    next: Next,
}

/// What is to follow a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another attempt: when the policy says so, or after this delay.
    Retry(Option<Duration>),
    /// Nothing.
    Death,
    /// A later run, without counting this one.
    Snooze(Duration),
}

/// Ends the attempt without counting it; the job runs again after `delay`.
#[must_use]
pub fn snooze(delay: Duration) -> Failure {
    Failure {
        text: format!("snoozed for {delay:?}"),
        next: Next::Snooze(delay),
    }
}

impl Failure {
    /// A failure that another attempt may mend.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            next: Next::Retry(None),
        }
    }

    /// A failure that no other attempt will mend: the job is dead.
    #[must_use]
    pub fn fatal(error: impl fmt::Display) -> Self {
        Self {
            text: error.to_string(),
            next: Next::Death,
        }
    }

    /// The next attempt, if the policy allows one, is to start after `delay`.
    #[must_use]
    pub fn retry_in(mut self, delay: Duration) -> Self {
        self.next = Next::Retry(Some(delay));
        self
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        let error = ErrorText::new(self.text);
        match self.next {
            Next::Retry(retry_in) => Outcome::Failed { error, retry_in },
            Next::Death => Outcome::Fatal {
                reason: "failed".to_owned(),
                error,
            },
            Next::Snooze(delay) => Outcome::Snoozed(delay),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(with_sources(&error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The error and what caused it, outermost first.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their source's text in their own.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the page could not be fetched")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("{0} (asked twice)")]
    struct Repeats(#[source] std::io::Error);

    #[test]
    fn a_cause_that_an_error_names_is_not_said_again() {
        let failure = Failure::from(Repeats(std::io::Error::other("connection reset")));
        assert_eq!(failure.to_string(), "connection reset (asked twice)");
    }

    #[test]
    fn an_error_becomes_a_retryable_failure_with_its_causes() {
        fn fails() -> Result<(), Failure> {
            Err(Outer(std::io::Error::other("connection reset")))?;
            Ok(())
        }
        let failure = fails().unwrap_err();
        assert_eq!(failure.to_string(), "the page could not be fetched: connection reset");
        let Outcome::Failed { retry_in, .. } = failure.into_outcome() else {
            panic!("retryable")
        };
        assert_eq!(retry_in, None);
    }

    #[test]
    fn the_handler_says_what_follows() {
        let second = Duration::from_secs(1);
        let asked = Failure::new("x").retry_in(second).into_outcome();
        assert!(matches!(asked, Outcome::Failed { retry_in: Some(d), .. } if d == second));
        assert!(matches!(Failure::fatal("x").into_outcome(), Outcome::Fatal { reason, .. } if reason == "failed"));
        assert_eq!(snooze(second).into_outcome(), Outcome::Snoozed(second));
    }
}
