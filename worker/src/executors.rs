//! Where jobs run. One door, [`Executors::run`], before three executors; it never fails, whatever
//! the job does: every end is an outcome.

mod async_tasks;
mod capture;
mod commands;
pub(crate) mod frames;
mod group;
pub(crate) mod lag;
mod lines;
mod meter;
mod processes;
pub(crate) mod shared;
pub(crate) mod socket;
mod threads;
pub(crate) mod tree;
pub(crate) mod watchdog;

use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_proto::words::bytes;
use millhand_proto::{CrashCause, ErrorText, Fence, JobId, Outcome, Parcel, Payload, TaskName, TimeLimit, Timestamp};

pub use self::processes::Recycle;
pub(crate) use self::threads::guarded;
use crate::context::{Context, Facts, States};
use crate::log::{JobLog, Sink, Source};
use crate::panics;
use crate::registry::{Executor, Handled, Handler, Registry};
use crate::stop::Stop;

/// How long a run that was asked to stop may take before it is ended from outside.
const GRACE: Duration = Duration::from_secs(2);

/// How often a process that lasts is looked at: for its memory, and whether it is still there.
const LOOK: Duration = Duration::from_millis(10);

/// The same for one without a memory limit: only its peak is recorded.
const LOOK_LAZILY: Duration = Duration::from_millis(100);

/// How many jobs may run at once on each executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) asyncs: usize,
    pub(crate) threads: usize,
    pub(crate) processes: usize,
    pub(crate) recycle: Recycle,
}

/// One attempt, claimed and with its slot.
pub(crate) struct Run {
    pub(crate) job: JobId,
    pub(crate) root: JobId,
    pub(crate) task: TaskName,
    pub(crate) attempt: u32,
    pub(crate) fence: Fence,
    pub(crate) claimed: Timestamp,
    pub(crate) args: Payload,
    pub(crate) stop: Stop,
    /// The job is asked to stop at it.
    pub(crate) soft: Option<Duration>,
    /// The job is stopped at it. A thread is only asked to.
    pub(crate) hard: Option<Duration>,
    /// Bytes that its process, with what it starts, may hold.
    pub(crate) memory: Option<u64>,
    /// What it prints and says.
    pub(crate) log: JobLog,
    /// A worker died under the job before: it gets a child process of its own.
    pub(crate) suspect: bool,
}

/// How the attempt ended, and where its time went.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    /// Everything but `run` and `encode`: the hand-over to the executor, and the answer's way back.
    pub(crate) dispatch: Duration,
    pub(crate) run: Duration,
    pub(crate) cpu: Option<Duration>,
    pub(crate) encode: Duration,
    /// The longest poll of an async run.
    pub(crate) blocked: Option<Duration>,
    /// The start of a child that the job waited for.
    pub(crate) start: Option<Duration>,
    /// Bytes that its process was seen to hold.
    pub(crate) peak: Option<u64>,
    /// Jobs that a successful attempt enqueued.
    pub(crate) children: Vec<Parcel>,
}

impl Run {
    /// The end of a job whose process holds more than it may.
    fn over_memory(&self, held: Option<u64>) -> Option<Outcome> {
        let limit = self.memory?;
        let held = held.filter(|held| *held > limit)?;
        let (held, limit) = (bytes(held), bytes(limit));
        Some(Outcome::Crashed {
            cause: CrashCause::Memory,
            error: ErrorText::new(format!("killed: it held {held} of memory and may hold {limit}")),
        })
    }

    /// Asks the job to stop at its soft limit; never ends.
    async fn soften(&self) -> std::convert::Infallible {
        if let Some(limit) = self.soft {
            tokio::time::sleep(limit).await;
            self.ask_at_soft_limit(limit);
        }
        std::future::pending().await
    }

    /// The job has run for so long: it is asked to stop, and its log says so.
    fn ask_at_soft_limit(&self, limit: Duration) {
        let text = format!("asked to end at its soft limit of {limit:?}");
        self.log.add(Source::Said, text);
        self.stop.soft_limit(limit);
    }

    /// The hard limit as a future; without one it never comes.
    async fn timed_out(&self) -> Outcome {
        let Some(limit) = self.hard else {
            return std::future::pending().await;
        };
        tokio::time::sleep(limit).await;
        Outcome::TimedOut(TimeLimit::Hard(limit))
    }
}

/// What an executor answers. Timings that it does not know are `None`.
struct Ended {
    outcome: Outcome,
    run: Option<Duration>,
    encode: Duration,
    cpu: Option<Duration>,
    blocked: Option<Duration>,
    start: Option<Duration>,
    peak: Option<u64>,
    children: Vec<Parcel>,
}

impl Ended {
    /// An end from outside, or one whose timings went with it.
    fn only(outcome: Outcome) -> Self {
        Self {
            outcome,
            run: None,
            encode: Duration::ZERO,
            cpu: None,
            blocked: None,
            start: None,
            peak: None,
            children: Vec::new(),
        }
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::only(Outcome::Failed {
            error: ErrorText::new(text),
            retry_in: None,
        })
    }

    fn crashed(cause: CrashCause, text: impl Into<String>) -> Self {
        Self::only(Outcome::Crashed {
            cause,
            error: ErrorText::new(text),
        })
    }

    fn of(handled: Handled, cpu: Option<Duration>, cx: &Context) -> Self {
        let Handled { outcome, run, encode } = handled;
        Self {
            run: Some(run),
            encode,
            cpu,
            children: cx.take_children(),
            ..Self::only(outcome)
        }
    }
}

/// The executors of one worker.
pub(crate) struct Executors {
    registry: Arc<Registry>,
    states: Arc<States>,
    asyncs: Option<async_tasks::Asyncs>,
    threads: threads::Threads,
    processes: processes::Processes,
}

impl Executors {
    /// Starts the threads and the tasks' runtime; child processes start when they are first used. To be
    /// called, and run, inside the worker's own runtime, which drives the children's I/O; async tasks run
    /// on `tasks`, or on a runtime of the executor's own.
    pub(crate) fn start(
        registry: Arc<Registry>,
        sizes: Sizes,
        tasks: Option<tokio::runtime::Handle>,
        block_limit: Duration,
        states: Arc<States>,
    ) -> std::io::Result<Self> {
        panics::remember();
        let threads = if registry.uses(Executor::Thread) {
            sizes.threads.max(1)
        } else {
            0
        };
        let asyncs = registry.uses(Executor::Async);
        let asyncs = asyncs.then(|| async_tasks::Asyncs::start(tasks, block_limit));
        Ok(Self {
            asyncs: asyncs.transpose()?,
            threads: threads::Threads::start(threads)?,
            processes: processes::Processes::new(
                processes::ChildCommand::this_program()?,
                sizes.processes,
                sizes.recycle,
            ),
            registry,
            states,
        })
    }

    /// Looks after the async executor; to be called every [`lag::PROBE`] while it is not idle.
    pub(crate) fn look(&self) {
        if let Some(asyncs) = &self.asyncs {
            asyncs.look();
        }
    }

    /// What watches the async executor, where there is one.
    pub(crate) fn dog(&self) -> Option<&watchdog::Watchdog> {
        self.asyncs.as_ref().map(async_tasks::Asyncs::dog)
    }

    /// Thread slots whose jobs were asked to end and did not; it tells when their number changes.
    pub(crate) fn leaked(&self) -> tokio::sync::watch::Receiver<usize> {
        self.threads.leaked()
    }

    /// Runs one attempt to its end.
    ///
    /// Dropping the future ends an async run and a process, but no thread.
    pub(crate) async fn run(&self, run: Run) -> Ran {
        let started = Instant::now();
        let Ended {
            outcome,
            run: ran,
            encode,
            cpu,
            blocked,
            start,
            peak,
            children,
        } = self.dispatch(run).await;
        let whole = started.elapsed();
        // Who ended a job from outside does not know when its handler began; it was not before its child did.
        let most = whole.saturating_sub(start.unwrap_or_default());
        let ran = ran.unwrap_or(most).min(whole);
        let encode = encode.min(whole - ran);
        let children = if matches!(outcome, Outcome::Succeeded(_)) {
            children
        } else {
            Vec::new()
        };
        Ran {
            outcome,
            dispatch: whole - ran - encode,
            run: ran,
            cpu,
            encode,
            blocked,
            start,
            peak,
            children,
        }
    }

    async fn dispatch(&self, run: Run) -> Ended {
        let Some(task) = self.registry.get(&run.task) else {
            return Ended::failed(format!("task {} is not registered here", run.task));
        };
        match &task.handler {
            Handler::Async(handler) => match &self.asyncs {
                Some(asyncs) => asyncs.run(handler, task.blocking, &run, self.context(&run)).await,
                None => Ended::failed("the async executor was not started"),
            },
            Handler::Thread(handler) => self.threads.run(handler, task.slots, &run, self.context(&run)).await,
            Handler::Process(_) => self.processes.run(run).await,
            Handler::Child(command) => self.processes.run_in(command, run).await,
            Handler::Command(command) => {
                let _slot = self.processes.slot().await;
                commands::run(command, &run).await
            }
        }
    }

    fn context(&self, run: &Run) -> Context {
        let facts = Facts {
            job: run.job,
            root: run.root,
            task: run.task.clone(),
            attempt: run.attempt,
            fence: run.fence,
            claimed: run.claimed,
            deadline: run.hard.and_then(|limit| Instant::now().checked_add(limit)),
        };
        let sink = Sink::Here(run.log.clone());
        Context::new(facts, run.stop.clone(), Arc::clone(&self.states), sink)
    }

    /// Ends children and threads. A thread whose handler does not return is left behind.
    pub(crate) async fn stop(self) {
        self.processes.stop().await;
        self.threads.stop().await;
    }
}

#[cfg(test)]
mod tests;
