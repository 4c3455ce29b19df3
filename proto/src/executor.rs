//! Where a task runs.

use std::fmt;

/// Where a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Executor {
    /// As a future on tokio: for work that waits.
    Async,
    /// On a thread of a fixed pool: for short CPU work that is trusted.
    Thread,
    /// In a child process: for long or dangerous CPU work, and for commands.
    Process,
}

impl Executor {
    /// All executors.
    pub const ALL: [Self; 3] = [Self::Async, Self::Thread, Self::Process];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Thread => "thread",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
