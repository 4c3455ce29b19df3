//! The jobs of a run: each kind ends in its own way, and says in a diary what it did.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use millhand_client::Job;
use millhand_proto::{RetryWish, Task};
use millhand_worker::{Context, Failure, TaskOptions, Worker, snooze};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::diary::{Diary, RAN};
use crate::load::QUEUE;

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
}

impl Kind {
    /// All, in an order in which every few jobs are of every kind.
    pub(crate) const ALL: [Self; 5] = [Self::Succeed, Self::Retry, Self::Die, Self::Snooze, Self::Parent];
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
    /// What no log may show.
    pub(crate) secret: String,
}

impl Task for Work {
    const NAME: &'static str = "work";
    /// The square, and the claim that brought it.
    type Output = (u64, [u32; 2]);
}

/// A child that the parent enqueues: its number tells the parent's.
const CHILDREN: u64 = 1_000_000;

/// A worker that knows them.
pub(crate) fn on(worker: Worker, folder: &Path) -> Result<Worker> {
    let options = TaskOptions {
        retry: RetryWish {
            retries: Some(3),
            base_ms: Some(100),
            longest_ms: Some(1000),
        },
        ..TaskOptions::default()
    };
    let worker = worker.state(Diary::open(folder, RAN)?);
    Ok(worker.on_async_with(options, work))
}

async fn work(job: Work, cx: Context) -> Result<(u64, [u32; 2]), Failure> {
    let diary = cx.state::<Diary>()?;
    let facts = |more: &[(&'static str, Value)]| {
        let mut facts = vec![
            ("id", json!(cx.job_id().to_string())),
            ("attempt", json!(cx.attempt())),
            ("fence", json!([cx.fence().hand, cx.fence().claim])),
            ("pid", json!(std::process::id())),
            ("parentless", json!(job.n < CHILDREN)),
        ];
        facts.extend_from_slice(more);
        facts
    };
    let say = |what: &str, more: &[(&'static str, Value)]| {
        let said = diary.write(what, &facts(more));
        said.map_err(|error| Failure::new(format!("{error:#}")))
    };
    say("start", &[])?;
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    // A failed attempt, or one that was put off, left a copy of a higher hand.
    let first = cx.fence().hand == 0;
    match job.kind {
        Kind::Retry if first => {
            say("failed", &[])?;
            return Err(Failure::new("the first attempt fails"));
        }
        Kind::Snooze if first => {
            say("snoozed", &[])?;
            return Err(snooze(Duration::from_millis(job.later)));
        }
        Kind::Die => {
            say("died", &[])?;
            return Err(Failure::fatal("it was asked to"));
        }
        Kind::Parent => {
            let child = Work {
                n: job.n + CHILDREN,
                kind: Kind::Succeed,
                ..job
            };
            let id = cx.enqueue(Job::of(child).queue(QUEUE))?;
            say("end", &[("child", json!(id.to_string()))])?;
        }
        Kind::Succeed | Kind::Retry | Kind::Snooze => say("end", &[])?,
    }
    Ok((job.n * job.n, [cx.fence().hand, cx.fence().claim]))
}
