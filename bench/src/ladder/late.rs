//! A delayed job that tells how late it starts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use millhand_broker::{Backend, Clock};
use millhand_client::Job;
use millhand_proto::{Task, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::running::Running;

/// When nothing starts for so long, something is wrong.
const SILENCE: Duration = Duration::from_secs(180);

#[derive(Serialize, Deserialize)]
pub(super) struct Late {
    due: Timestamp,
}

impl Task for Late {
    const NAME: &'static str = "late";
    const QUEUE: &'static str = "late";
    type Output = ();
}

impl Late {
    pub(super) fn at(due: Timestamp) -> Job<Self> {
        Job::of(Self { due }).not_before(due)
    }
}

/// How late jobs started, in the order of their starts; below zero where one was early.
#[derive(Clone, Debug, Default)]
pub(super) struct Starts(Arc<Mutex<Vec<i64>>>);

impl Starts {
    /// A worker of delayed jobs, and of others on another queue.
    pub(super) fn worker(&self, backend: &Arc<dyn Backend>) -> Running {
        let starts = self.clone();
        Running::with(backend, |worker| {
            worker.queues(["default", Late::QUEUE]).on_async(move |job: Late, _| {
                let late = Clock::system().now().as_micros() - job.due.as_micros();
                starts.0.lock().unwrap_or_else(PoisonError::into_inner).push(late);
                std::future::ready(Ok(()))
            })
        })
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until so many have started.
    pub(super) async fn all(&self, count: usize) -> Result<()> {
        let (mut seen, mut since) = (self.count(), Instant::now());
        while seen < count {
            sleep(Duration::from_millis(20)).await;
            let now = self.count();
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
            ensure!(
                since.elapsed() < SILENCE,
                "{now} of {count} started, and then none for {SILENCE:?}"
            );
        }
        Ok(())
    }

    /// What was noted so far: how late, and how many were early. Begins anew.
    pub(super) fn take(&self) -> (Vec<Duration>, usize) {
        let late = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let early = late.iter().filter(|late| **late < 0).count();
        let late = late
            .into_iter()
            .map(|late| Duration::from_micros(u64::try_from(late).unwrap_or(0)));
        (late.collect(), early)
    }
}
