//! What every scenario has: a place, jobs in its queue, workers, and, when all is over, what is found there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use millhand_client::{Client, WaitError};
use millhand_proto::{JobId, State};
use serde_json::{Value, json};

use crate::diary::{DONE, Diary, FOUND};
use crate::jobs::{Kind, Work};
use crate::load::{self, produce};
use crate::place::Place;
use crate::process::Running;

/// How long a fault, and the end of everything after it, may take: a lease is 15 s, what a dead worker held
/// comes back after it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One run of a scenario.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) folder: PathBuf,
    pub(crate) jobs: Vec<(JobId, Work)>,
    /// The store forgets: what ended is known from the handlers' diary only.
    forgets: bool,
    done: Diary,
    began: Instant,
}

impl Scene {
    pub(crate) fn new(place: Place, folder: &Path, jobs: Vec<(JobId, Work)>, forgets: bool) -> Result<Self> {
        Ok(Self {
            place,
            folder: folder.to_owned(),
            jobs,
            forgets,
            done: Diary::open(folder, DONE)?,
            began: Instant::now(),
        })
    }

    /// Enqueues all jobs; with the same ids when it is done again.
    pub(crate) async fn produce(&self) -> Result<()> {
        produce(&self.place, &self.folder, &self.jobs).await
    }

    /// Starts a worker, with a crash point if there is one.
    pub(crate) fn worker(&self, crash: Option<&str>) -> Result<Running> {
        Running::start("worker", &self.place, &self.folder, &[], crash)
    }

    /// Notes what was done, and to whom.
    pub(crate) fn note(&self, what: &str, pid: Option<u32>) -> Result<()> {
        self.done.write(what, &[("pid", json!(pid))])
    }

    /// Waits until the workers' handlers have begun so many runs, by their diary.
    pub(crate) async fn started(&self, runs: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while load::starts(&self.folder)? < runs {
            if Instant::now() > end {
                bail!("{runs} runs did not begin within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until every job's handler has said that it ended for good; false when they do not.
    async fn all_told(&self) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while load::ends(&self.folder)? < self.jobs.len() {
            if Instant::now() > end {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Waits until every job has ended, stops the workers, and notes what is found; the times.
    pub(crate) async fn over(&self, workers: Vec<Running>) -> Result<Value> {
        let struck = self.began.elapsed();
        let client = Client::new(self.place.open()?);
        let after = Instant::now();
        let ended = if self.forgets {
            self.all_told().await?
        } else {
            all_ended(&client, &with_children(&self.jobs)).await
        };
        let drained = after.elapsed();
        let mut statuses = Vec::new();
        for worker in workers {
            statuses.push(worker.stop(PATIENCE).await?);
        }
        note_found(&client, &self.place, &self.folder, &self.jobs).await?;
        client.close().await;
        if !ended {
            bail!("not all jobs ended within {PATIENCE:?}");
        }
        if let Some(status) = statuses.iter().find(|status| !status.success()) {
            bail!("a worker that was told to stop ended with {status}");
        }
        Ok(json!({ "t_struck": millis(struck), "t_drained": millis(drained) }))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The jobs, and the children that they have when they succeed.
fn with_children(jobs: &[(JobId, Work)]) -> Vec<JobId> {
    let mut ids: Vec<JobId> = jobs.iter().map(|(id, _)| *id).collect();
    let parents = jobs.iter().filter(|(_, work)| work.kind == Kind::Parent);
    ids.extend(parents.map(|(id, _)| JobId::child_of(*id, "0")));
    ids
}

/// Waits until all have ended; false when they do not.
async fn all_ended(client: &Client, ids: &[JobId]) -> bool {
    let end = Instant::now() + PATIENCE;
    for id in ids {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match client.wait_raw(*id, left).await {
                Ok(_) => break,
                // Its record is written behind who enqueued it.
                Err(WaitError::Unknown(_)) if !left.is_zero() => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => return false,
            }
        }
    }
    true
}

/// Notes how each job is remembered, and what is left.
async fn note_found(client: &Client, place: &Place, folder: &Path, jobs: &[(JobId, Work)]) -> Result<()> {
    let diary = Diary::open(folder, FOUND)?;
    for id in with_children(jobs) {
        let view = client.get(id).await?;
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
            // The copies of dead jobs stay; a kill between their publish and its note leaves one twice.
            .filter(|(name, count)| !(name.ends_with(".dead") && *count <= 2 * dead))
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
