//! How the program ends: exit codes, and errors as people and programs read them.

use std::fmt;
use std::process::ExitCode;

use millhand_broker::Error;
use millhand_client::{ConnectError, EnqueueError, WaitError};
use serde::Serialize;

/// The exit codes, as `millhand help exit-codes` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is done.
    Done,
    /// It failed.
    Failed,
    /// The command line or the settings are wrong.
    Usage,
    /// Nothing matched, or there is no such job.
    Nothing,
    /// The back end cannot be reached or used.
    Unreachable,
    /// Some were done, some not.
    Partly,
    /// Nobody confirmed it.
    NotConfirmed,
    /// The awaited job did not succeed.
    JobFailed,
    /// The time is up.
    TimedOut,
    /// Interrupted by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Its number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Nothing => 3,
            // 4, not allowed, is kept for the fleet.
            Self::Unreachable => 5,
            Self::Partly => 6,
            Self::NotConfirmed => 7,
            Self::JobFailed => 100,
            Self::TimedOut => 124,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Text without passwords: of a word such as `amqp://USER:PASSWORD@HOST`, the scheme is left.
pub(crate) fn without_secrets(text: &str) -> String {
    let word = |word: &str| {
        let start = word
            .find("://")
            .map(|at| at + 3)
            .or_else(|| word.find(':').map(|at| at + 1));
        let Some(start) = start.filter(|&start| word[start..].contains('@')) else {
            return word.to_owned();
        };
        let end = word.trim_end_matches(|c: char| c.is_whitespace() || c == '\'').len();
        format!("{}…{}", &word[..start], &word[end..])
    };
    text.split_inclusive(char::is_whitespace).map(word).collect()
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// A short code for programs.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// What mends it.
    pub(crate) hint: Option<String>,
}

/// The result of a command.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whoever read the output has gone: nothing is left to say.
    pub(crate) fn closed_pipe() -> Self {
        Self::new(Exit::Done, "closed_pipe", "")
    }

    /// As one JSON document.
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
        }
        let error = Body {
            code: self.code,
            message: &self.message,
            hint: self.hint.as_deref(),
        };
        serde_json::to_string(&Document { error }).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Unusable { .. } => "store_unusable",
            _ => "store_unreachable",
        };
        Self::new(Exit::Unreachable, code, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Backend(error) => error.into(),
            error => Self::usage(error.to_string()),
        }
    }
}

impl From<EnqueueError> for Failure {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Invalid(invalid) => Self::new(Exit::Usage, "invalid_job", invalid.to_string()),
            EnqueueError::Unknown { id, why } => Self::new(
                Exit::Unreachable,
                "unknown",
                format!("nobody can say whether job {id} was enqueued: {why}"),
            )
            .hint(format!("enqueue it again with --id {id}: an id is one job")),
            error => Self::new(Exit::Unreachable, "rejected", error.to_string()),
        }
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        let message = error.to_string();
        match error {
            WaitError::TimedOut { id, after } => {
                let message = format!("job {id} did not end within {}", crate::times::human(after));
                Self::new(Exit::TimedOut, "timed_out", message)
                    .hint(format!("it goes on; wait again with: millhand job wait {id}"))
            }
            WaitError::Unknown(_) => Self::new(Exit::Nothing, "no_such_job", message),
            WaitError::Forgotten { id, since } => {
                let since = crate::times::rfc3339(since);
                let message = format!("job {id} is forgotten: it was last known at {since}");
                Self::new(Exit::Nothing, "forgotten", message)
            }
            WaitError::Backend(error) => Self::new(Exit::Unreachable, "store_unreachable", error.to_string()),
            _ => Self::new(Exit::Failed, "wait_failed", message),
        }
    }
}
