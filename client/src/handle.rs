//! A job that was enqueued, as its producer holds it.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use millhand_broker::JobView;
use millhand_proto::{JobId, State, Task, Timestamp};

use crate::client::Client;
use crate::error::WaitError;

/// A job that was enqueued.
pub struct Handle<T> {
    client: Client,
    id: JobId,
    known: Option<Timestamp>,
    task: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            id: self.id,
            known: self.known,
            task: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.id).finish()
    }
}

impl<T: Task> Handle<T> {
    pub(crate) fn new(client: Client, id: JobId, known: Option<Timestamp>) -> Self {
        Self {
            client,
            id,
            known,
            task: PhantomData,
        }
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Waits until the job has ended: its result, or why there is none.
    ///
    /// The first wait of a client spawns one task on the current tokio runtime, which must live as
    /// long as anybody waits.
    ///
    /// # Errors
    /// When the time is up, nothing is known of the job any more, its result is no `T::Output`, or
    /// the back end fails. The job's own failure is the inner error.
    pub async fn wait(&self, timeout: Duration) -> Result<Result<T::Output, JobFailure>, WaitError> {
        let view = self.client.wait_known(self.id, timeout, self.known).await?;
        if view.entry.state != State::Succeeded {
            return Ok(Err(JobFailure::of(&view)));
        }
        let result = view.entry.result.ok_or(WaitError::NoResult(self.id))?;
        result
            .decode()
            .map(Ok)
            .map_err(|source| WaitError::BadResult { id: self.id, source })
    }
}

/// How a job ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// Dead, cancelled or expired.
    pub state: State,
    /// Why, as a code: `retries_exhausted`, `worker_lost`, `purged`, …
    pub reason: Option<String>,
    /// The last attempt's error.
    pub error: Option<String>,
    /// Attempts that were made.
    pub attempts: u32,
}

impl JobFailure {
    /// The failure of a job that ended, and not well.
    #[must_use]
    pub fn of(view: &JobView) -> Self {
        let entry = &view.entry;
        Self {
            state: entry.state,
            reason: entry.reason.clone(),
            error: entry
                .notes
                .iter()
                .rev()
                .find_map(|n| n.error.as_ref())
                .map(|e| e.as_str().to_owned()),
            attempts: entry.attempts,
        }
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)?;
        match self.attempts {
            0 => {}
            1 => write!(f, " after 1 attempt")?,
            n => write!(f, " after {n} attempts")?,
        }
        // The usual reasons say no more than the state does.
        let reason = self
            .reason
            .as_deref()
            .filter(|r| !matches!(*r, "retries_exhausted" | "failed" | "cancelled" | "expired"));
        if let Some(reason) = reason {
            write!(f, " ({reason})")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for JobFailure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_a_sentence() {
        let mut failure = JobFailure {
            state: State::Dead,
            reason: Some("retries_exhausted".into()),
            error: Some("no route to host".into()),
            attempts: 3,
        };
        assert_eq!(failure.to_string(), "dead after 3 attempts: no route to host");
        failure.reason = Some("bad_arguments".into());
        failure.attempts = 1;
        assert_eq!(
            failure.to_string(),
            "dead after 1 attempt (bad_arguments): no route to host"
        );
        let expired = JobFailure {
            state: State::Expired,
            reason: Some("expired".into()),
            error: None,
            attempts: 0,
        };
        assert_eq!(expired.to_string(), "expired");
    }
}
