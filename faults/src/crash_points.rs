//! F02: a process is killed at one crash point; another one carries on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use millhand_broker::crash::Point;
use millhand_client::Client;
use millhand_proto::{JobId, State};
use serde_json::{Value, json};

use crate::diary::{DONE, Diary, FOUND};
use crate::jobs::{Kind, Work};
use crate::load::{self, produce};
use crate::place::Place;
use crate::process::Running;

/// Jobs of one run.
pub(crate) const JOBS: u64 = 25;

/// How long a crash, and the end of everything after it, may take: a lease is 15 s, what a dead worker
/// held comes back after it.
const PATIENCE: Duration = Duration::from_secs(90);

/// One crash of one process.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) point: Point,
    /// How often the process comes to the point before.
    pub(crate) at: u32,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) seed: u64,
}

impl Crash {
    fn plan(&self) -> String {
        format!("{}:{}", self.point.name, self.at)
    }

    /// Runs it; the times in milliseconds. What became of the jobs is in the diaries.
    pub(crate) async fn run(&self, place: &Place, folder: &Path) -> Result<Value> {
        let jobs = load::jobs(JOBS, &self.kinds, self.seed);
        let diary = Diary::open(folder, DONE)?;
        let killed = |pid: Option<u32>| diary.write("kill", &[("pid", json!(pid)), ("point", json!(self.plan()))]);
        let plan = self.plan();
        if self.point.name.starts_with("push.") {
            let seed = self.seed.to_string();
            let kinds = serde_json::to_string(&self.kinds)?;
            let mut producer = Running::start("produce", place, folder, &[&seed, &kinds], Some(&plan))?;
            let pid = producer.pid();
            producer.crashed(PATIENCE).await?;
            killed(pid)?;
        }
        // With the same ids: what is in the queue already is not there twice.
        produce(place, folder, &jobs).await?;
        let struck = Instant::now();
        if !self.point.name.starts_with("push.") {
            let mut worker = Running::start("worker", place, folder, &[], Some(&plan))?;
            let pid = worker.pid();
            worker.crashed(PATIENCE).await.with_context(|| plan.clone())?;
            killed(pid)?;
        }
        let crashed = struck.elapsed();
        let worker = Running::start("worker", place, folder, &[], None)?;
        let client = Client::new(place.open()?);
        let after = Instant::now();
        let ended = all_ended(&client, &jobs).await;
        let drained = after.elapsed();
        let status = worker.stop(PATIENCE).await?;
        note_found(&client, place, folder, &jobs).await?;
        client.close().await;
        if !ended {
            bail!("{plan}: not all jobs ended within {PATIENCE:?}");
        }
        if !status.success() {
            bail!("{plan}: the worker that carried on ended with {status}");
        }
        Ok(json!({ "t_crashed": millis(crashed), "t_drained": millis(drained) }))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until all have ended; false when they do not.
async fn all_ended(client: &Client, jobs: &[(JobId, Work)]) -> bool {
    let end = Instant::now() + PATIENCE;
    for (id, _) in jobs {
        let left = end.saturating_duration_since(Instant::now());
        if client.wait_raw(*id, left).await.is_err() {
            return false;
        }
    }
    true
}

/// Notes how each job is remembered, and what is left.
async fn note_found(client: &Client, place: &Place, folder: &Path, jobs: &[(JobId, Work)]) -> Result<()> {
    let diary = Diary::open(folder, FOUND)?;
    let mut ids: Vec<JobId> = jobs.iter().map(|(id, _)| *id).collect();
    let parents = jobs.iter().filter(|(_, work)| work.kind == Kind::Parent);
    ids.extend(parents.map(|(id, _)| JobId::child_of(*id, "0")));
    // A child may run for a moment longer than its parent.
    let end = Instant::now() + Duration::from_secs(10);
    for id in ids {
        let view = loop {
            let view = client.get(id).await?;
            let over = view.as_ref().is_none_or(|view| view.entry.state.is_ended());
            if over || Instant::now() > end {
                break view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let Some(view) = view else { continue };
        let result = view
            .entry
            .result
            .as_ref()
            .and_then(|result| result.decode::<u64>().ok());
        let state = view.entry.state;
        diary.write(
            "job",
            &[
                ("id", json!(id.to_string())),
                ("state", json!(word(state))),
                ("result", json!(result)),
            ],
        )?;
    }
    // RabbitMQ tells its numbers a little late.
    let end = Instant::now() + Duration::from_secs(30);
    let dead = jobs.iter().filter(|(_, work)| work.kind == Kind::Die).count() as u64;
    loop {
        let left: Vec<_> = place
            .messages()
            .into_iter()
            // The copies of dead jobs stay.
            .filter(|(name, count)| !(name.ends_with(".dead") && *count <= dead))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            for (name, count) in left {
                diary.write("left", &[("of", json!(format!("{count} messages in {name}")))])?;
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn word(state: State) -> String {
    format!("{state:?}").to_lowercase()
}
