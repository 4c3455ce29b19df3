use crate::id::WorkerId;
use crate::limits;
use crate::outcome::{AttemptEnd, ErrorText, Outcome};
use crate::payload::Payload;
use crate::policy::RetryPolicy;
use crate::record::{AttemptNote, Leaving, Successor};
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// What follows from how an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The job succeeded.
    Succeed(Payload),
    /// The job is cancelled.
    Cancel(AttemptNote),
    /// The job leaves: retry, snooze or death.
    Leave {
        /// The next copy.
        successor: Successor,
        /// Why it dies, as a code.
        reason: Option<String>,
        /// What the record tells of the attempt.
        note: AttemptNote,
    },
    /// The job goes back uncounted.
    GiveBack,
}

/// What is known when an attempt ends.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The worker.
    pub worker: WorkerId,
    /// When the attempt started.
    pub started: Timestamp,
    /// When it ended.
    pub now: Timestamp,
    /// Crashes of this job before.
    pub crashes: u32,
    /// With as many crashes the job is dead.
    pub most_crashes: u32,
    /// Whether a cancel was asked for.
    pub cancel_asked: bool,
    /// Random, for the delay.
    pub seed: u64,
}

/// Decides what follows. A cancelled job that fails is not tried again; one that succeeds all the
/// same has succeeded.
#[must_use]
pub fn decide(outcome: Outcome, copy: &JobCopy, policy: RetryPolicy, ended: Ended) -> Decision {
    let policy = copy.core.retry.over(policy);
    let cause = match &outcome {
        Outcome::Crashed { cause, .. } => Some(cause.code()),
        _ => None,
    };
    let note = |end, error, next| AttemptNote {
        number: copy.attempt(),
        started: ended.started,
        ended: ended.now,
        end,
        cause: cause.clone(),
        error,
        worker: ended.worker,
        next,
    };
    let die = |reason: &str, end, error| Decision::Leave {
        successor: Successor {
            why: Leaving::Death,
            due: ended.now,
        },
        reason: Some(reason.to_owned()),
        note: note(end, Some(error), None),
    };
    let later = |end, error: ErrorText, wish: Option<std::time::Duration>, times: u32| {
        let due = ended.now.plus(
            wish.unwrap_or_else(|| policy.delay(times, ended.seed))
                .min(limits::HORIZON),
        );
        if copy.core.expires.is_some_and(|expires| due >= expires) {
            return die("expires_before_retry", end, error);
        }
        Decision::Leave {
            successor: Successor {
                why: Leaving::Retry,
                due,
            },
            reason: None,
            note: note(end, Some(error), Some(due)),
        }
    };
    let again = |exhausted: &str, end, error: ErrorText, wish: Option<std::time::Duration>| {
        // Failed attempts since the last operator's retry, with this one. Crashes have a count of their
        // own.
        let failed = copy
            .attempt()
            .saturating_sub(copy.hop.attempts_before)
            .saturating_sub(ended.crashes)
            .max(1);
        if failed > policy.retries {
            die(exhausted, end, error)
        } else {
            later(end, error, wish, failed)
        }
    };
    match outcome {
        Outcome::Succeeded(result) if result.bytes.len() > limits::RESULT_BYTES => {
            let error = format!(
                "the result has {} bytes; the limit is {}",
                result.bytes.len(),
                limits::RESULT_BYTES
            );
            die("result_too_big", AttemptEnd::Failed, ErrorText::new(error))
        }
        Outcome::Succeeded(result) => Decision::Succeed(result),
        Outcome::Cancelled => Decision::Cancel(note(AttemptEnd::Cancelled, None, None)),
        Outcome::Interrupted => Decision::GiveBack,
        Outcome::Failed { error, .. } if ended.cancel_asked => {
            Decision::Cancel(note(AttemptEnd::Failed, Some(error), None))
        }
        Outcome::Crashed { error, .. } if ended.cancel_asked => {
            Decision::Cancel(note(AttemptEnd::Crashed, Some(error), None))
        }
        Outcome::Snoozed(_) | Outcome::TimedOut(_) | Outcome::Fatal { .. } if ended.cancel_asked => {
            Decision::Cancel(note(AttemptEnd::Cancelled, None, None))
        }
        Outcome::Failed { error, retry_in } => again("retries_exhausted", AttemptEnd::Failed, error, retry_in),
        Outcome::Fatal { reason, error } => die(&reason, AttemptEnd::Failed, error),
        Outcome::TimedOut(limit) => {
            let error = ErrorText::new(limit.to_string());
            again("timed_out", AttemptEnd::TimedOut, error, None)
        }
        Outcome::Crashed { error, .. } if ended.crashes.saturating_add(1) >= ended.most_crashes => {
            die("crashed", AttemptEnd::Crashed, error)
        }
        Outcome::Crashed { error, .. } => later(AttemptEnd::Crashed, error, None, ended.crashes.saturating_add(1)),
        Outcome::Snoozed(wait) => {
            let due = ended.now.plus(wait.min(limits::HORIZON));
            Decision::Leave {
                successor: Successor {
                    why: Leaving::Snooze,
                    due,
                },
                reason: None,
                note: note(AttemptEnd::Snoozed, None, Some(due)),
            }
        }
    }
}
