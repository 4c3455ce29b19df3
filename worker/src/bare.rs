//! The executors without a worker around them, to measure what they cost alone.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::{ErrorText, Fence, JobId, Outcome, Payload, Task, TaskName, Timestamp};
use tokio_util::task::AbortOnDropHandle;

use crate::context::States;
use crate::executors::{Executors, Recycle, Run, Sizes, lag};
use crate::log::JobLog;
use crate::registry::Registry;
use crate::stop::Stop;
use crate::worker::Slots;

/// The executors of a [`Worker`](crate::Worker), and nothing that claims or settles.
pub struct Bare {
    executors: Arc<Executors>,
    _looks: AbortOnDropHandle<()>,
}

impl Bare {
    pub(crate) fn start(
        registry: Arc<Registry>,
        slots: Slots,
        recycle: Recycle,
        block_limit: Duration,
        states: Arc<States>,
    ) -> std::io::Result<Self> {
        let sizes = Sizes {
            asyncs: slots.asyncs,
            threads: slots.threads,
            processes: slots.processes,
            recycle,
        };
        let executors = Arc::new(Executors::start(registry, sizes, None, block_limit, states)?);
        let watched = Arc::clone(&executors);
        let looks = tokio::spawn(async move {
            let mut probes = tokio::time::interval(lag::PROBE);
            loop {
                probes.tick().await;
                watched.look();
            }
        });
        Ok(Self {
            executors,
            _looks: AbortOnDropHandle::new(looks),
        })
    }

    /// Runs one job with encoded arguments to its end, or to the hard limit.
    pub async fn run<T: Task>(&self, args: Payload, hard: Option<Duration>) -> Outcome {
        let Ok(task) = TaskName::new(T::NAME) else {
            return Outcome::Failed {
                error: ErrorText::new(format!("{} is no name of a task", T::NAME)),
                retry_in: None,
            };
        };
        let job = JobId::minted(Timestamp::MIN_WIRE, crate::crew::random(), 0);
        let run = Run {
            job,
            root: job,
            task,
            attempt: 1,
            fence: Fence {
                hand: 0,
                claim: 1,
                token: 0,
            },
            claimed: Timestamp::MIN_WIRE,
            args,
            stop: Stop::default(),
            soft: None,
            hard,
            memory: None,
            log: JobLog::default(),
            suspect: false,
        };
        self.executors.run(run).await.outcome
    }
}
