//! The async executor: a job is a future on the tasks' runtime, and a watchdog looks after its polls.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::Outcome;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};

use super::watchdog::{Polls, Watchdog};
use super::{Ended, GRACE, Run};
use crate::context::Context;
use crate::panics;
use crate::registry::{AsyncHandler, Blocking, Handled};
use crate::stop::Step;

/// Where futures run.
pub(super) struct Asyncs {
    tasks: Handle,
    /// The worker's own runtime, unless it was given one.
    own: Option<Runtime>,
    dog: Arc<Watchdog>,
}

impl Asyncs {
    /// On `given`, or else on a runtime of its own with one thread per core.
    pub(super) fn start(given: Option<Handle>, block_limit: Duration) -> std::io::Result<Self> {
        let own = match given {
            Some(_) => None,
            None => Some(
                tokio::runtime::Builder::new_multi_thread()
                    .thread_name("millhand-async")
                    .enable_all()
                    .build()?,
            ),
        };
        let tasks = own.as_ref().map(|runtime| runtime.handle().clone()).or(given);
        Ok(Self {
            tasks: tasks.unwrap_or_else(Handle::current),
            own,
            dog: Arc::new(Watchdog::new(block_limit)),
        })
    }

    pub(super) fn dog(&self) -> &Watchdog {
        &self.dog
    }

    /// To be called often while jobs are under way: sees what holds the executor's threads.
    pub(super) fn look(&self) {
        self.dog.look(&self.tasks);
    }

    pub(super) async fn run(&self, handler: &AsyncHandler, blocking: Blocking, run: &Run, cx: Context) -> Ended {
        let (handler, args, inner) = (handler.clone(), run.args.clone(), cx.clone());
        let make = move || handler(args, inner);
        let (watched, polls) = self.dog.watch((&run.task, run.job, blocking), make);
        let mut task = Task(self.tasks.spawn(watched));
        let stopped = tokio::select! {
            joined = &mut task.0 => return ended(joined, run, &polls, &cx),
            timed_out = run.timed_out() => timed_out,
            () = run.stop.reaches(Step::Asked) => run.stop.outcome(),
            never = run.soften() => match never {},
        };
        task.0.abort();
        // Nothing may run on after the outcome: a future that does not reach an await keeps its slot.
        // Only a worker that stops at once does not wait for it.
        let given_up = async {
            run.stop.reaches(Step::AtOnce).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            joined = &mut task.0 => match joined {
                // It ended by itself before the abort reached it.
                Ok(Ok(handled)) => measured(Ended::of(handled, None, &cx), &polls),
                _ => measured(Ended::only(stopped), &polls),
            },
            () = given_up => measured(Ended::only(stopped), &polls),
        }
    }
}

impl Drop for Asyncs {
    fn drop(&mut self) {
        // What does not reach an await is left behind; to wait for it here could take for ever.
        if let Some(runtime) = self.own.take() {
            runtime.shutdown_background();
        }
    }
}

type Joined = Result<Result<Handled, String>, JoinError>;

fn ended(joined: Joined, run: &Run, polls: &Polls, cx: &Context) -> Ended {
    let mut ended = match joined {
        Ok(Ok(handled)) => Ended::of(handled, None, cx),
        Ok(Err(panic)) => Ended::failed(panic),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Ended::failed(panics::message(&*panic)),
            // Nobody else aborts it: its runtime is shut down.
            Err(_) => Ended {
                run: Some(Duration::ZERO),
                ..Ended::only(Outcome::Interrupted)
            },
        },
    };
    ended.outcome = run.stop.explains(ended.outcome);
    measured(ended, polls)
}

fn measured(ended: Ended, polls: &Polls) -> Ended {
    Ended {
        cpu: Some(polls.cpu()),
        blocked: Some(polls.longest()),
        ..ended
    }
}

/// A task that ends with its run.
struct Task(JoinHandle<Result<Handled, String>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
