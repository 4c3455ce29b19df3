//! The jobs of a run: each kind ends in its own way, and says in a diary what it did.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use millhand_client::{Job, RawJob};
use millhand_proto::{Payload, RetryWish, Task, TaskName};
use millhand_worker::{Context, Failure, TaskOptions, Worker, snooze};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::deeds;
use crate::diary::{Diary, RAN};
use crate::load::QUEUE;
use crate::process::{Setup, is_child};

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Succeeds.
    Succeed,
    /// Fails once, then succeeds.
    Retry,
    /// Is dead after one attempt.
    Die,
    /// Is put off once, then succeeds.
    Snooze,
    /// Enqueues a child, and succeeds.
    Parent,
    /// Fails twice, as everybody does whose dependency is down, then succeeds.
    Storm,
    /// Aborts its worker.
    Poison,
    /// Takes memory until its worker is killed.
    Glutton,
    /// On a thread: does not end when it is asked to, and succeeds at last.
    Deaf,
    /// In a child process, as all that follow: succeeds.
    Child,
    /// Leaves a process in a session of its own behind, and succeeds.
    Orphan,
    /// Panics.
    Panic,
    /// Never ends.
    Spin,
    /// Aborts.
    Abort,
    /// Is killed by SIGSEGV.
    Segfault,
    /// Ends its process as if all were well.
    Exit,
    /// Becomes another program, which runs nothing of this one at its end.
    Become,
    /// Closes what it is heard by, and goes on.
    Close,
    /// Says what is no frame.
    Garbage,
    /// Says half of a frame, and ends.
    HalfFrame,
    /// Says that a frame of 1 GiB follows.
    HugeFrame,
    /// Takes memory until it is killed.
    Hunger,
}

impl Kind {
    /// Those of everyday, in an order in which every few jobs are of every kind.
    pub(crate) const ALL: [Self; 5] = [Self::Succeed, Self::Retry, Self::Die, Self::Snooze, Self::Parent];

    /// Whether it is dead at last.
    pub(crate) fn dies(self) -> bool {
        !matches!(
            self,
            Self::Succeed
                | Self::Retry
                | Self::Snooze
                | Self::Parent
                | Self::Storm
                | Self::Deaf
                | Self::Child
                | Self::Orphan
        )
    }

    /// The task whose handler it needs.
    fn task(self) -> &'static str {
        match self {
            Self::Succeed | Self::Retry | Self::Die | Self::Snooze | Self::Parent | Self::Poison | Self::Glutton => {
                Work::NAME
            }
            Self::Storm => Stormy::NAME,
            Self::Deaf => OnThread::NAME,
            _ => InChild::NAME,
        }
    }
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) n: u64,
    pub(crate) kind: Kind,
    /// How long it takes.
    pub(crate) millis: u64,
    /// How long one is put off that is.
    pub(crate) later: u64,
    /// How long after it was enqueued it may start.
    pub(crate) delay: u64,
    /// What no log may show.
    pub(crate) secret: String,
}

/// The square, and the claim that brought it.
pub(crate) type Answer = (u64, [u32; 2]);

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = Answer;
}

macro_rules! elsewhere {
    ($(#[$doc:meta] $name:ident = $task:literal;)*) => {$(
        #[$doc]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct $name(Work);

        impl Task for $name {
            const NAME: &'static str = $task;
            type Output = Answer;
        }
    )*};
}

elsewhere! {
    /// Work with another policy.
    Stormy = "work.storm";
    /// Work on a thread.
    OnThread = "work.thread";
    /// Work in a child process.
    InChild = "work.child";
}

impl Work {
    /// The call of it.
    pub(crate) fn call(&self) -> Result<RawJob> {
        let mut call = RawJob::new(TaskName::new(self.kind.task())?, Payload::encode(self)?).queue(QUEUE);
        if self.delay > 0 {
            call = call.delay(Duration::from_millis(self.delay));
        }
        Ok(match self.kind {
            Kind::Spin => call.retries(0).timeout(Duration::from_millis(500)),
            Kind::Panic => call.retries(0),
            _ => call,
        })
    }
}

/// A task that only some workers know.
pub(crate) const STRANGER: &str = "stranger";

#[derive(Serialize, Deserialize)]
struct Stranger(String);

impl Task for Stranger {
    const NAME: &'static str = STRANGER;
    type Output = ();
}

/// A child that the parent enqueues: its number tells the parent's.
const CHILDREN: u64 = 1_000_000;

/// The longest waits, in milliseconds, before the first and second retry of those whose dependency is down.
pub(crate) const STORM: [u64; 2] = [4000, 8000];

/// What a child process may hold.
const MEMORY: u64 = 256 << 20;

/// When a job on a thread is asked to end.
const SOFT: Duration = Duration::from_millis(500);

/// A worker that knows them, on the executors that it has.
pub(crate) fn on(worker: Worker, folder: &Path, setup: &Setup) -> Result<Worker> {
    let again = |base_ms, longest_ms| TaskOptions {
        retry: RetryWish {
            retries: Some(3),
            base_ms: Some(base_ms),
            longest_ms: Some(longest_ms),
        },
        ..TaskOptions::default()
    };
    let soon = again(100, 1000);
    let mut worker = worker
        .state(Diary::open(folder, RAN)?)
        .on_async_with(soon, work)
        .on_async_with(again(STORM[0], STORM[1]), |job: Stormy, cx| work(job.0, cx));
    if setup.strangers {
        worker = worker.on_async(async |_: Stranger, _| Ok(()));
    }
    if setup.threads > 0 {
        let mut asked = soon;
        asked.limits.soft_ms = Some(SOFT.as_millis().try_into()?);
        worker = worker.on_thread_with(asked, |job: OnThread, cx| deaf(&job.0, &cx));
    }
    if setup.processes > 0 {
        let bounded = TaskOptions {
            memory: Some(MEMORY),
            ..soon
        };
        worker = worker.on_process_with(bounded, |job: InChild, cx| in_child(&job.0, &cx));
    }
    Ok(worker)
}

/// Writes what a job's run came to.
fn say(job: &Work, cx: &Context, what: &str, more: &[(&'static str, Value)]) -> Result<(), Failure> {
    // Who is killed is the worker, and its child with it.
    let worker = match rustix::process::getppid().filter(|_| is_child()) {
        Some(parent) => u32::try_from(parent.as_raw_nonzero().get())?,
        None => std::process::id(),
    };
    let mut facts = vec![
        ("id", json!(cx.job_id().to_string())),
        ("attempt", json!(cx.attempt())),
        ("fence", json!([cx.fence().hand, cx.fence().claim])),
        ("pid", json!(worker)),
        ("parentless", json!(job.n < CHILDREN)),
    ];
    facts.extend_from_slice(more);
    let said = cx.state::<Diary>()?.write(what, &facts);
    said.map_err(|error| Failure::new(format!("{error:#}")))
}

fn answer(job: &Work, cx: &Context) -> Answer {
    (job.n * job.n, [cx.fence().hand, cx.fence().claim])
}

async fn work(job: Work, cx: Context) -> Result<Answer, Failure> {
    let say = |what: &str, more: &[(&'static str, Value)]| say(&job, &cx, what, more);
    say("start", &[])?;
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    // A failed attempt, or one that was put off, left a copy of a higher hand.
    let before = cx.fence().hand;
    match job.kind {
        Kind::Retry if before == 0 => {
            say("failed", &[])?;
            return Err(Failure::new("the first attempt fails"));
        }
        Kind::Storm if before < 2 => {
            say("failed", &[])?;
            return Err(Failure::new("what it depends on is down"));
        }
        Kind::Snooze if before == 0 => {
            say("snoozed", &[])?;
            return Err(snooze(Duration::from_millis(job.later)));
        }
        Kind::Die => {
            say("died", &[])?;
            return Err(Failure::fatal("it was asked to"));
        }
        Kind::Poison => std::process::abort(),
        Kind::Glutton => deeds::take_memory(),
        Kind::Parent => {
            let child = Work {
                n: job.n + CHILDREN,
                kind: Kind::Succeed,
                ..job.clone()
            };
            let id = cx.enqueue(Job::of(child).queue(QUEUE))?;
            say("end", &[("child", json!(id.to_string()))])?;
        }
        _ => say("end", &[])?,
    }
    Ok(answer(&job, &cx))
}

fn deaf(job: &Work, cx: &Context) -> Result<Answer, Failure> {
    say(job, cx, "start", &[])?;
    std::thread::sleep(Duration::from_millis(job.millis));
    say(job, cx, if cx.is_cancelled() { "asked" } else { "unasked" }, &[])?;
    say(job, cx, "end", &[])?;
    Ok(answer(job, cx))
}

fn in_child(job: &Work, cx: &Context) -> Result<Answer, Failure> {
    say(job, cx, "start", &[])?;
    std::thread::sleep(Duration::from_millis(job.millis));
    deeds::act(job.kind)?;
    say(job, cx, "end", &[])?;
    Ok(answer(job, cx))
}
