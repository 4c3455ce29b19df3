//! Errors of back ends, by what the caller can do.

/// What went wrong at the door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The back end did not answer, or not in time: try again.
    #[error("{what} cannot be reached: {source}")]
    Unreachable {
        /// What was asked, without secrets.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is stored there is not what this build works with: do not try again.
    #[error("{what}: {problem}")]
    Unusable {
        /// The file or server, without secrets.
        what: String,
        /// What is the matter, and what mends it.
        problem: String,
    },
    /// The back end is closed.
    #[error("the back end is closed")]
    Closed,
}

/// The result of a call at the door.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn unreachable(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable {
            what: what.to_owned(),
            source: source.into(),
        }
    }

    pub(crate) fn unusable(what: &str, problem: String) -> Self {
        Self::Unusable {
            what: what.to_owned(),
            problem,
        }
    }
}
