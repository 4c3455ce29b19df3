//! The worker: put together, started, stopped.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millhand_broker::Backend;
use millhand_proto::{NameError, QueueName, Task, TaskName, limits};
use tokio_util::sync::CancellationToken;

use crate::bare::Bare;
use crate::child;
use crate::context::{Context, States};
use crate::dispatch::{Dispatch, Plan, Until};
use crate::executors::Recycle;
use crate::failure::Failure;
use crate::health::{self, Board, Health};
use crate::registry::{CommandTask, ConfigError, Executor, Registry, TaskOptions};

/// How many jobs may run at once on each executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Async tasks, which wait most of their time.
    pub asyncs: usize,
    /// Threads; by default one for each core that this process may use: affinity and a container's quota are
    /// respected. A number that is set is taken as it is.
    pub threads: usize,
    /// Child processes and commands; by default the same.
    pub processes: usize,
}

impl Slots {
    fn of(&self, executor: Executor) -> usize {
        match executor {
            Executor::Async => self.asyncs,
            Executor::Thread => self.threads,
            Executor::Process => self.processes,
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        let cores = cores();
        Self {
            asyncs: limits::ASYNC_SLOTS,
            threads: cores,
            processes: cores,
        }
    }
}

/// The cores that this process may use. The standard library reads the affinity and the quotas of cgroup v2
/// and v1, rounded down, and at least 1.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Why a worker ended otherwise than by being stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It was put together wrongly.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A queue's name cannot be used.
    #[error(transparent)]
    Queue(#[from] NameError),
    /// A task could never run here.
    #[error("task {task} runs on the {executor} executor, which has 0 slots here; give it one, or take the task out")]
    NoSlots {
        /// The task.
        task: TaskName,
        /// Its executor.
        executor: Executor,
    },
    /// A task weighs more than its executor holds.
    #[error("task {task} takes {needs} slots, and the {executor} executor has {has} here: its jobs could never run")]
    TooHeavy {
        /// The task.
        task: TaskName,
        /// Its executor.
        executor: Executor,
        /// Slots that one of its jobs takes.
        needs: usize,
        /// Slots that there are.
        has: usize,
    },
    /// The back end cannot be used.
    #[error("the worker cannot use its back end: {0}")]
    Backend(#[from] millhand_broker::Error),
    /// It cannot answer how it is.
    #[error("the worker cannot answer how it is at {address}: {source}")]
    Health {
        /// Where it was to answer.
        address: SocketAddr,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// The machine refused a thread or the like.
    #[error("the worker cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// Deliveries ended by themselves.
    #[error("deliveries from queue {0} ended; the worker stops so that another can take its place")]
    Ended(QueueName),
    /// Jobs are ready and slots are free, and nothing came for a minute.
    #[error(
        "deaf: jobs are ready in queue {0}, and none came for a minute; the worker stops so that another can take its place"
    )]
    Silent(QueueName),
    /// The worker's own thread ended without an answer.
    #[error("the worker's loop ended without an answer")]
    Lost,
}

/// Runs jobs: each task on the executor that its registration chose.
pub struct Worker {
    backend: Arc<dyn Backend>,
    queues: Vec<String>,
    slots: Slots,
    recycle: Recycle,
    grace: Duration,
    block_limit: Duration,
    health_at: Option<SocketAddr>,
    registry: Registry,
    states: States,
    board: Board,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Vec<_> = self
            .registry
            .tasks()
            .map(|(name, task)| format!("{name} ({})", task.executor))
            .collect();
        f.debug_struct("Worker")
            .field("queues", &self.queues)
            .field("slots", &self.slots)
            .field("tasks", &tasks)
            .finish()
    }
}

impl Worker {
    /// A worker of the queue `default` without tasks.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            queues: vec!["default".into()],
            slots: Slots::default(),
            recycle: Recycle::default(),
            grace: limits::GRACE,
            block_limit: limits::BLOCK_LIMIT,
            health_at: None,
            registry: Registry::default(),
            states: States::default(),
            board: Board::default(),
        }
    }

    /// The queues to take jobs from, instead of `default`.
    #[must_use]
    pub fn queues(mut self, queues: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// How many jobs may run at once on each executor.
    #[must_use]
    pub fn slots(mut self, slots: Slots) -> Self {
        self.slots = slots;
        self
    }

    /// When child processes are replaced by new ones; never by default.
    #[must_use]
    pub fn recycle(mut self, recycle: Recycle) -> Self {
        self.recycle = recycle;
        self
    }

    /// How long running jobs may go on when the worker stops; [`limits::GRACE`] by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long a poll of an async task may hold its thread before it is recorded and, unless its
    /// [`TaskOptions::blocking`] says otherwise, warned about; [`limits::BLOCK_LIMIT`] by default.
    #[must_use]
    pub fn block_limit(mut self, limit: Duration) -> Self {
        self.block_limit = limit;
        self
    }

    /// Answers `/live`, `/ready` and `/startup` over HTTP at this address while it runs: 200, or 503 with the
    /// reasons. Port 0 takes one that is free; [`Health::address`] and the log say which. Whoever reaches the
    /// address may ask. Not by default: two workers of one machine cannot have one port.
    #[must_use]
    pub fn health_at(mut self, address: SocketAddr) -> Self {
        self.health_at = Some(address);
        self
    }

    /// How this worker is, for who asks while it runs.
    #[must_use]
    pub fn health(&self) -> Health {
        self.board.reader()
    }

    /// A value that handlers get with [`Context::state`].
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Runs a task as a future: for work that waits. [`run`](Self::run) gives async tasks a runtime of
    /// their own, so that nothing else of the program waits for one that blocks; what a handler spawns
    /// there ends with the worker.
    #[must_use]
    pub fn on_async<T, F, Fut>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T::Output, Failure>> + Send + 'static,
    {
        self.on_async_with(TaskOptions::default(), handler)
    }

    /// [`on_async`](Self::on_async) with limits and policy.
    #[must_use]
    pub fn on_async_with<T, F, Fut>(mut self, options: TaskOptions, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T::Output, Failure>> + Send + 'static,
    {
        self.registry.on_async(handler, options);
        self
    }

    /// Runs a task on a thread of a fixed pool: for short CPU work that is trusted.
    #[must_use]
    pub fn on_thread<T, F>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.on_thread_with(TaskOptions::default(), handler)
    }

    /// [`on_thread`](Self::on_thread) with limits and policy.
    #[must_use]
    pub fn on_thread_with<T, F>(mut self, options: TaskOptions, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.registry.on_thread(handler, options);
        self
    }

    /// Runs a task in a child process: for long or dangerous CPU work. The child is this program,
    /// started again with the same arguments: all of `main` before `run` runs there too.
    #[must_use]
    pub fn on_process<T, F>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.on_process_with(TaskOptions::default(), handler)
    }

    /// [`on_process`](Self::on_process) with limits and policy.
    #[must_use]
    pub fn on_process_with<T, F>(mut self, options: TaskOptions, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.registry.on_process(handler, options);
        self
    }

    /// Runs a command as a task.
    #[must_use]
    pub fn command(mut self, task: CommandTask) -> Self {
        self.registry.command(task);
        self
    }

    /// Whether the worker is put together rightly.
    ///
    /// # Errors
    /// The first mistake: a name, a task registered twice, a limit that cannot be kept.
    pub fn check(&self) -> Result<(), WorkerError> {
        for queue in &self.queues {
            QueueName::new(queue)?;
        }
        self.registry.check()?;
        for (name, task) in self.registry.tasks() {
            let (task, executor, needs) = (name.clone(), task.executor, task.slots);
            match self.slots.of(executor) {
                0 => return Err(WorkerError::NoSlots { task, executor }),
                has if needs > has => {
                    return Err(WorkerError::TooHeavy {
                        task,
                        executor,
                        needs,
                        has,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes and runs jobs until `shutdown` comes; then takes no more, lets running jobs finish
    /// within the grace, and hands back the rest. A second SIGTERM or SIGINT hands back at once.
    ///
    /// In a child process it serves the parent instead and does not return.
    ///
    /// # Errors
    /// When the worker is put together wrongly, its back end cannot be used, or deliveries end.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), WorkerError> {
        self.start(Until::Told(Box::pin(shutdown))).await
    }

    /// Runs jobs until none is left, delayed ones and retries included; on a standing clock
    /// ([`millhand_broker::memory::Memory::standing`]) time jumps to the next one. For tests: tasks
    /// of the process executor run on threads, since a test binary cannot be started again, and async tasks
    /// on the runtime that this is called on, so that a clock that the test has paused is theirs too.
    ///
    /// On RabbitMQ and Redis delayed jobs, retries among them, are **not** waited for: RabbitMQ does not
    /// tell whether any are on their way. It ends when nothing is ready and nothing runs here.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until_idle(mut self) -> Result<(), WorkerError> {
        self.registry.processes_on_threads();
        self.start(Until::Idle).await
    }

    /// Only the executors, on the runtime that this is called on; the back end is not used. In a child
    /// process it serves the parent instead and does not return. For the benches.
    ///
    /// # Errors
    /// When the worker is put together wrongly, or a thread cannot be started.
    #[doc(hidden)]
    pub fn bare(self) -> Result<Bare, WorkerError> {
        self.check()?;
        let (registry, states) = (Arc::new(self.registry), Arc::new(self.states));
        if child::is_child() {
            child::serve(registry, states);
        }
        Ok(Bare::start(
            registry,
            self.slots,
            self.recycle,
            self.block_limit,
            states,
        )?)
    }

    async fn start(self, until: Until) -> Result<(), WorkerError> {
        self.check()?;
        let registry = Arc::new(self.registry);
        let states = Arc::new(self.states);
        if child::is_child() {
            child::serve(registry, states);
        }
        let queues = self
            .queues
            .iter()
            .map(|q| QueueName::new(q))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = Plan {
            backend: self.backend,
            queues,
            slots: self.slots,
            recycle: self.recycle,
            grace: self.grace,
            block_limit: self.block_limit,
            registry,
            states,
            tasks: match until {
                Until::Told(_) => None,
                Until::Idle => Some(tokio::runtime::Handle::current()),
            },
            board: self.board,
        };
        let health_at = self.health_at;
        if matches!(until, Until::Told(_)) {
            tell_slots(&plan);
        }
        // The loop, the broker's I/O and the children's have a runtime and a thread of their own,
        // so that no task code can stand in their way.
        let (answer, done) = tokio::sync::oneshot::channel();
        let abandoned = CancellationToken::new();
        let guard = abandoned.clone().drop_guard();
        std::thread::Builder::new()
            .name("millhand-loop".into())
            .spawn(move || {
                let ended = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(WorkerError::from)
                    .and_then(|runtime| {
                        runtime.block_on(async {
                            if let Some(address) = health_at {
                                let answers = health::answer_at(address, &plan.board).await;
                                answers.map_err(|source| WorkerError::Health { address, source })?;
                            }
                            Dispatch::run(plan, until, abandoned).await
                        })
                    });
                let _ = answer.send(ended);
            })?;
        let ended = done.await.unwrap_or(Err(WorkerError::Lost));
        drop(guard);
        ended
    }
}

/// Says how much may run at once, and on what.
fn tell_slots(plan: &Plan) {
    let cores = cores();
    let used = Executor::ALL
        .into_iter()
        .filter(|executor| plan.registry.uses(*executor));
    let slots: Vec<_> = used
        .map(|executor| format!("{} {executor}", plan.slots.of(executor)))
        .collect();
    tracing::info!(
        slots = slots.join(", "),
        cores,
        "starts; cores are those that affinity and the container's quota leave to this process"
    );
    if plan.registry.uses(Executor::Thread) && plan.slots.threads > cores {
        tracing::warn!(
            threads = plan.slots.threads,
            cores,
            "there are more thread slots than cores: jobs that compute will share them"
        );
    }
}

/// The first SIGTERM or SIGINT.
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be listened for");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
