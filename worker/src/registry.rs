//! What a worker can run: tasks by name, each with its executor, limits and policy.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use millhand_proto::{
    ErrorText, NameError, Outcome, Payload, RetryPolicy, RetryWish, Task, TaskName, TimeLimits, limits,
};

pub use millhand_proto::Executor;

use crate::context::Context;
use crate::failure::{Failure, with_sources};

/// Where handlers are called: what lies below in a backtrace is machinery.
pub(crate) const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/registry.rs:");

/// The worker's policy for a task: what a job's producer did not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// Time limits of one attempt.
    pub limits: TimeLimits,
    /// Retries and their delays.
    pub retry: RetryWish,
    /// Crashes of its process after which a job is dead; [`limits::CRASHES`] when `None`.
    pub crashes: Option<u32>,
    /// Bytes of memory that its process, with what it starts, may hold while it runs; only the process
    /// executor can keep such a limit.
    pub memory: Option<u64>,
    /// Slots that one of its jobs takes; 1 when `None`.
    pub slots: Option<u32>,
    /// What is done about a poll that blocks the async executor.
    pub blocking: Blocking,
}

/// What a worker does when a task holds a thread of the async executor too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// It is measured.
    Observe,
    /// It is measured, and a warning names the task and the job.
    #[default]
    Warn,
}

/// A program that is a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTask {
    /// The task's name.
    pub name: TaskName,
    /// The program, absolute or found on the path, and its arguments. No shell unless it is one.
    pub command: Vec<String>,
    /// How the program is spoken with.
    pub kind: CommandKind,
    /// Limits and policy.
    pub options: TaskOptions,
}

/// How a program that is a task is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Every run starts it: arguments as JSON on its standard input, the result on its standard output.
    Command,
    /// It is kept warm and speaks the child protocol (`docs/child-protocol.md`).
    Child,
}

/// A worker that was put together wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A task's name cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two handlers for one task.
    #[error("task {0} is registered twice")]
    Twice(TaskName),
    /// A hard limit on the thread executor.
    #[error(
        "task {0} runs on a thread and has a hard limit, but a thread cannot be stopped from outside: run the task on the process executor, or take the limit away and look at Context::is_cancelled in the handler"
    )]
    HardLimitOnThread(TaskName),
    /// A memory limit on an executor that shares its memory with other jobs.
    #[error("task {0} has a memory limit, which only the process executor can keep; it runs on the {1} executor")]
    MemoryLimitWithoutProcess(TaskName, Executor),
    /// A command task without a command.
    #[error("task {0} has an empty command")]
    EmptyCommand(TaskName),
}

/// What a handler did.
pub(crate) struct Handled {
    pub(crate) outcome: Outcome,
    /// The handler's wall clock, with decoding its arguments.
    pub(crate) run: Duration,
    pub(crate) encode: Duration,
}

pub(crate) type AsyncHandler = Arc<dyn Fn(Payload, Context) -> BoxFuture<'static, Handled> + Send + Sync>;
pub(crate) type SyncHandler = Arc<dyn Fn(Payload, Context) -> Handled + Send + Sync>;

/// A handler without its types.
#[derive(Clone)]
pub(crate) enum Handler {
    Async(AsyncHandler),
    Thread(SyncHandler),
    Process(SyncHandler),
    Command(Arc<[String]>),
    /// A warm child that is not this program.
    Child(Arc<[String]>),
}

/// A task that this worker runs.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) executor: Executor,
    pub(crate) limits: TimeLimits,
    pub(crate) retry: RetryPolicy,
    pub(crate) crashes: u32,
    pub(crate) memory: Option<u64>,
    /// Slots that a job takes.
    pub(crate) slots: usize,
    pub(crate) blocking: Blocking,
    pub(crate) handler: Handler,
}

/// All tasks of a worker.
#[derive(Default)]
pub(crate) struct Registry {
    tasks: BTreeMap<TaskName, Registered>,
    /// Reported when the worker starts, so that building one needs no `?` on every line.
    errors: Vec<ConfigError>,
}

impl Registry {
    pub(crate) fn on_async<T, F, Fut>(&mut self, handler: F, options: TaskOptions)
    where
        T: Task,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T::Output, Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased: AsyncHandler = Arc::new(move |args, cx| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let started = Instant::now();
                let answer = match decode::<T>(&args) {
                    Ok(job) => handler(job, cx).await.map_err(Failure::into_outcome),
                    Err(outcome) => Err(outcome),
                };
                handled(started, answer)
            })
        });
        self.add(T::NAME, options, Handler::Async(erased));
    }

    pub(crate) fn on_thread<T, F>(&mut self, handler: F, options: TaskOptions)
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.add(T::NAME, options, Handler::Thread(erase(handler)));
    }

    pub(crate) fn on_process<T, F>(&mut self, handler: F, options: TaskOptions)
    where
        T: Task,
        F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
    {
        self.add(T::NAME, options, Handler::Process(erase(handler)));
    }

    pub(crate) fn command(&mut self, task: CommandTask) {
        if task.command.first().is_none_or(String::is_empty) {
            self.errors.push(ConfigError::EmptyCommand(task.name.clone()));
        }
        let command = task.command.into();
        let handler = match task.kind {
            CommandKind::Command => Handler::Command(command),
            CommandKind::Child => Handler::Child(command),
        };
        self.add(task.name.as_str(), task.options, handler);
    }

    fn add(&mut self, name: &str, options: TaskOptions, handler: Handler) {
        let name = match TaskName::new(name) {
            Ok(name) => name,
            Err(error) => return self.errors.push(error.into()),
        };
        let executor = match handler {
            Handler::Async(_) => Executor::Async,
            Handler::Thread(_) => Executor::Thread,
            Handler::Process(_) | Handler::Command(_) | Handler::Child(_) => Executor::Process,
        };
        let mut limits = options.limits;
        match executor {
            Executor::Thread if limits.hard_ms.is_some() => {
                self.errors.push(ConfigError::HardLimitOnThread(name.clone()));
            }
            Executor::Async | Executor::Thread if options.memory.is_some() => {
                self.errors
                    .push(ConfigError::MemoryLimitWithoutProcess(name.clone(), executor));
            }
            Executor::Process if limits.hard_ms.is_none() => {
                limits.hard_ms = u64::try_from(limits::PROCESS_HARD.as_millis()).ok();
            }
            _ => {}
        }
        if self.tasks.contains_key(&name) {
            return self.errors.push(ConfigError::Twice(name));
        }
        let retry = options.retry.over(RetryPolicy::default());
        self.tasks.insert(
            name,
            Registered {
                executor,
                limits,
                retry,
                crashes: options.crashes.unwrap_or(limits::CRASHES).max(1),
                memory: options.memory,
                slots: options
                    .slots
                    .map_or(1, |slots| usize::try_from(slots).unwrap_or(usize::MAX).max(1)),
                blocking: options.blocking,
                handler,
            },
        );
    }

    /// Whether the worker was put together rightly; the first mistake if not.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.errors.first().cloned().map_or(Ok(()), Err)
    }

    pub(crate) fn get(&self, task: &TaskName) -> Option<&Registered> {
        self.tasks.get(task)
    }

    /// The tasks, by name.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (&TaskName, &Registered)> {
        self.tasks.iter()
    }

    /// Moves process tasks to threads: a test binary cannot be started again as a child. Commands
    /// stay where they are.
    pub(crate) fn processes_on_threads(&mut self) {
        for task in self.tasks.values_mut() {
            if let Handler::Process(handler) = &task.handler {
                task.handler = Handler::Thread(Arc::clone(handler));
                task.executor = Executor::Thread;
            }
        }
    }

    /// Whether any task runs on `executor`.
    pub(crate) fn uses(&self, executor: Executor) -> bool {
        self.tasks.values().any(|task| task.executor == executor)
    }
}

fn erase<T, F>(handler: F) -> SyncHandler
where
    T: Task,
    F: Fn(T, Context) -> Result<T::Output, Failure> + Send + Sync + 'static,
{
    Arc::new(move |args, cx| {
        let started = Instant::now();
        let answer = decode::<T>(&args).and_then(|job| handler(job, cx).map_err(Failure::into_outcome));
        handled(started, answer)
    })
}

fn decode<T: Task>(args: &Payload) -> Result<T, Outcome> {
    args.decode().map_err(|error| bad_arguments(T::NAME, &error))
}

/// Why a job is dead whose arguments its task cannot take. What the decoder says of them may hold a
/// part of them: it belongs into the record, not into a log.
pub(crate) const BAD_ARGUMENTS: &str = "bad_arguments";

/// The end of a job whose arguments its task cannot take: no other attempt will mend that.
pub(crate) fn bad_arguments(task: &str, error: &dyn std::error::Error) -> Outcome {
    let error = ErrorText::new(format!("the arguments do not fit task {task}: {}", with_sources(error)));
    Outcome::Fatal {
        reason: BAD_ARGUMENTS.to_owned(),
        error,
    }
}

fn handled<O: serde::Serialize>(started: Instant, answer: Result<O, Outcome>) -> Handled {
    let run = started.elapsed();
    let encoding = Instant::now();
    let outcome = match answer.map(|output| Payload::encode(&output)) {
        Ok(Ok(result)) => Outcome::Succeeded(result),
        Ok(Err(error)) => {
            let error = ErrorText::new(format!("the output: {}", with_sources(&error)));
            Outcome::Fatal {
                reason: "failed".to_owned(),
                error,
            }
        }
        Err(outcome) => outcome,
    };
    Handled {
        outcome,
        run,
        encode: encoding.elapsed(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::context::tests::{facts, here};

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Double(pub(crate) u32);
    impl Task for Double {
        const NAME: &'static str = "double";
        type Output = u64;
    }

    #[derive(Serialize, Deserialize)]
    struct Misnamed;
    impl Task for Misnamed {
        const NAME: &'static str = "Bad Name";
        type Output = ();
    }

    fn double(job: &Double) -> Result<u64, Failure> {
        Ok(u64::from(job.0) * 2)
    }

    #[test]
    fn mistakes_are_kept_until_the_start() {
        let plain = TaskOptions::default();
        let mut twice = Registry::default();
        twice.on_thread(|job: Double, _| double(&job), plain);
        assert_eq!(twice.check(), Ok(()));
        twice.on_async(async |job: Double, _| double(&job), plain);
        assert!(matches!(twice.check(), Err(ConfigError::Twice(_))));

        let mut named = Registry::default();
        named.on_thread(|_: Misnamed, _| Ok(()), plain);
        assert!(matches!(named.check(), Err(ConfigError::Name(_))));

        let hard = TaskOptions {
            limits: TimeLimits {
                hard_ms: Some(5),
                soft_ms: None,
            },
            ..plain
        };
        let mut limited = Registry::default();
        limited.on_thread(|job: Double, _| double(&job), hard);
        assert!(limited.check().unwrap_err().to_string().contains("cannot be stopped"));

        let mut command = Registry::default();
        let name = TaskName::new("nothing").unwrap();
        command.command(CommandTask {
            name,
            command: vec![],
            kind: CommandKind::Command,
            options: plain,
        });
        assert!(matches!(command.check(), Err(ConfigError::EmptyCommand(_))));
    }

    #[test]
    fn handlers_decode_run_and_encode() {
        let mut registry = Registry::default();
        registry.on_process(|job: Double, _| double(&job), TaskOptions::default());
        let task = registry.get(&TaskName::new("double").unwrap()).unwrap();
        assert_eq!(task.limits.hard(), Some(limits::PROCESS_HARD));
        let Handler::Process(handler) = &task.handler else {
            panic!("a process task")
        };
        let cx = Context::new(facts("double"), crate::stop::Stop::default(), Arc::default(), here());

        let good = handler(Payload::json("21").unwrap(), cx.clone());
        assert_eq!(good.outcome, Outcome::Succeeded(Payload::encode(&42_u64).unwrap()));
        let Outcome::Fatal { reason, error } = handler(Payload::json("\"x\"").unwrap(), cx).outcome else {
            panic!("bad arguments are fatal")
        };
        assert_eq!(reason, "bad_arguments");
        assert!(
            error.as_str().contains("double") && error.as_str().contains("expected u32"),
            "{error:?}"
        );
    }
}
