//! How a run is ended from outside: in steps, each of which implies the ones before.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millhand_proto::{Outcome, TimeLimit};
use tokio::sync::Notify;

/// Ends a run from outside. Clones are the same stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    step: AtomicU8,
    raised: Notify,
    first: OnceLock<Why>,
}

/// How far a run was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Step {
    /// The handler is told, and nothing more follows.
    Told = 1,
    /// It is asked, and made to after a grace.
    Asked,
    /// The worker does not wait for it.
    AtOnce,
}

/// Why a run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Cancel,
    Shutdown,
    SoftLimit(Duration),
}

impl Stop {
    /// Whether it has come to this step.
    pub(crate) fn is(&self, step: Step) -> bool {
        self.0.step.load(Ordering::Acquire) >= step as u8
    }

    /// Waits for this step.
    pub(crate) async fn reaches(&self, step: Step) {
        loop {
            // Before the look, so that what is raised after it is heard.
            let raised = self.0.raised.notified();
            if self.is(step) {
                return;
            }
            raised.await;
        }
    }

    fn raise(&self, step: Step) {
        self.0.step.fetch_max(step as u8, Ordering::AcqRel);
        self.0.raised.notify_waiters();
    }

    /// Only the handler is told, for a reason that its executor knows.
    pub(crate) fn tell(&self) {
        self.raise(Step::Told);
    }

    /// The job reached its soft limit.
    pub(crate) fn soft_limit(&self, limit: Duration) {
        let _ = self.0.first.set(Why::SoftLimit(limit));
        self.raise(Step::Told);
    }

    /// The job was cancelled.
    pub(crate) fn cancel(&self) {
        let _ = self.0.first.set(Why::Cancel);
        self.raise(Step::Asked);
    }

    /// The worker stops at once.
    pub(crate) fn shutdown(&self) {
        let _ = self.0.first.set(Why::Shutdown);
        self.raise(Step::AtOnce);
    }

    /// How a run ends that was stopped: by what was asked first.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.0.first.get() {
            Some(Why::Shutdown) => Outcome::Interrupted,
            // One that was also cancelled, or interrupted, is that.
            Some(Why::SoftLimit(_)) if self.is(Step::AtOnce) => Outcome::Interrupted,
            Some(Why::SoftLimit(limit)) if !self.is(Step::Asked) => Outcome::TimedOut(TimeLimit::Soft(*limit)),
            Some(_) | None => Outcome::Cancelled,
        }
    }

    /// A run that was asked to stop and then ended with an error ended because of that.
    pub(crate) fn explains(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed { .. } if self.is(Step::Told) => self.outcome(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_implies_those_before_and_is_heard_by_who_waits_and_who_comes_late() {
        let stop = Stop::default();
        let waits = tokio::spawn({
            let stop = stop.clone();
            async move { stop.reaches(Step::Asked).await }
        });
        stop.soft_limit(Duration::from_secs(1));
        stop.reaches(Step::Told).await;
        tokio::task::yield_now().await;
        assert!(!waits.is_finished() && !stop.is(Step::Asked));
        let soft = TimeLimit::Soft(Duration::from_secs(1));
        assert_eq!(stop.outcome(), Outcome::TimedOut(soft));
        stop.cancel();
        waits.await.unwrap();
        assert_eq!(stop.outcome(), Outcome::Cancelled);
        stop.shutdown();
        stop.reaches(Step::AtOnce).await;
        assert_eq!(stop.outcome(), Outcome::Interrupted);
        // What came later lowers nothing.
        stop.tell();
        assert!(stop.is(Step::AtOnce));
    }
}
