//! What every scenario has: a place, jobs for its queue, workers, and, when all is over, what is found there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use millhand_broker::JobView;
use millhand_client::Client;
use millhand_proto::JobId;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::diary::{DONE, Diary, FOUND, PRODUCED};
use crate::jobs::{Answer, Kind, Work};
use crate::load::{self, Heard, Pace};
use crate::place::Place;
use crate::process::{self, Running, Setting};

/// How long a fault, and the end of everything after it, may take: a lease is 15 s, what a dead worker held
/// comes back after it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One run of a scenario.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) folder: PathBuf,
    pub(crate) jobs: Vec<(JobId, Work)>,
    /// The store forgets: what ended is known from the handlers' diary only.
    pub(crate) forgets: bool,
    seed: u64,
    done: Diary,
    heard: Mutex<Heard>,
    began: Instant,
}

impl Scene {
    pub(crate) fn new(place: Place, folder: &Path, jobs: Vec<(JobId, Work)>, forgets: bool, seed: u64) -> Result<Self> {
        let done = Diary::open(folder, DONE)?;
        for secret in place.secrets().iter().map(String::as_str).chain([load::SECRET]) {
            done.write("secret", &[("text", json!(secret))])?;
        }
        Ok(Self {
            place,
            folder: folder.to_owned(),
            jobs,
            forgets,
            seed,
            done,
            heard: Mutex::new(Heard::new(folder)),
            began: Instant::now(),
        })
    }

    /// Enqueues all jobs; with the same ids when it is done again.
    pub(crate) async fn produce(&self) -> Result<()> {
        self.produce_these(&self.jobs).await
    }

    /// Enqueues the run's jobs, changed.
    pub(crate) async fn produce_these(&self, jobs: &[(JobId, Work)]) -> Result<()> {
        load::produce(&self.place, &self.folder, jobs, Pace::default()).await
    }

    /// Enqueues all jobs, so many in one call, and at most so many in a second.
    pub(crate) async fn produce_by(&self, at_once: usize, per_second: Option<u32>) -> Result<()> {
        let pace = Pace {
            at_once,
            per_second,
            ..Pace::default()
        };
        load::produce(&self.place, &self.folder, &self.jobs, pace).await
    }

    /// Enqueues all jobs, so many in one parcel.
    pub(crate) async fn produce_packed(&self, pack: usize) -> Result<()> {
        let pace = Pace {
            at_once: pack,
            pack,
            ..Pace::default()
        };
        load::produce(&self.place, &self.folder, &self.jobs, pace).await
    }

    /// Enqueues all jobs behind what follows, so many in one call.
    pub(crate) fn produce_beside(self: &Arc<Self>, at_once: usize) -> JoinHandle<Result<()>> {
        let scene = Arc::clone(self);
        tokio::spawn(async move { scene.produce_by(at_once, None).await })
    }

    /// Enqueues all jobs behind what follows, so many in a second.
    pub(crate) fn produce_slowly(self: &Arc<Self>, place: Place, per_second: u32) -> JoinHandle<Result<()>> {
        let scene = Arc::clone(self);
        let pace = Pace {
            per_second: Some(per_second),
            ..Pace::default()
        };
        tokio::spawn(async move { load::produce(&place, &scene.folder, &scene.jobs, pace).await })
    }

    /// Starts a process that enqueues all jobs.
    pub(crate) fn producer(&self, setting: &Setting) -> Result<Running> {
        let mut kinds: Vec<Kind> = Vec::new();
        for (_, work) in &self.jobs {
            if !kinds.contains(&work.kind) {
                kinds.push(work.kind);
            }
        }
        let words = [
            self.jobs.len().to_string(),
            serde_json::to_string(&kinds)?,
            self.seed.to_string(),
        ];
        let words = words.each_ref().map(String::as_str);
        Running::start("produce", &self.place, &self.folder, &words, setting)
    }

    /// Starts a worker.
    pub(crate) fn worker(&self) -> Result<Running> {
        self.worker_with(&Setting::default())
    }

    /// Starts a worker that is told something, or harmed.
    pub(crate) fn worker_with(&self, setting: &Setting) -> Result<Running> {
        let setup = serde_json::to_string(&setting.setup)?;
        Running::start("worker", &self.place, &self.folder, &[&setup], setting)
    }

    /// Kills a worker.
    pub(crate) async fn kill(&self, mut worker: Running) -> Result<()> {
        let pid = worker.pid();
        worker.kill().await?;
        self.note("kill", pid)
    }

    /// Notes what was done, and to whom: `kill` and `freeze` of a process, `flush` of a store, `fault` of
    /// anything else, `heal` when it is over.
    pub(crate) fn note(&self, what: &str, pid: Option<u32>) -> Result<()> {
        self.done.write(what, &[("pid", json!(pid))])
    }

    /// Notes what these workers hold; what they hold when all is over is compared with it.
    pub(crate) fn baseline<'w>(&self, workers: impl IntoIterator<Item = &'w Running>) -> Result<()> {
        workers
            .into_iter()
            .try_for_each(|worker| self.note_usage("before", worker))
    }

    fn note_usage(&self, when: &str, worker: &Running) -> Result<()> {
        let facts = [
            ("pid", json!(worker.pid())),
            ("when", json!(when)),
            ("of", json!(worker.usage()?)),
        ];
        self.done.write("usage", &facts)
    }

    /// Looks until the handlers' diary says so.
    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&Heard) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.look(&enough)? {
            if Instant::now() > end {
                bail!("{what} did not come within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// What the handlers' diary says now.
    pub(crate) fn look(&self, enough: impl FnOnce(&Heard) -> bool) -> Result<bool> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.listen()?;
        Ok(enough(&heard))
    }

    /// Runs that handlers have begun.
    pub(crate) fn starts(&self) -> Result<usize> {
        let mut starts = 0;
        self.look(|heard| {
            starts = heard.starts;
            true
        })?;
        Ok(starts)
    }

    /// Waits until the workers' handlers have begun so many runs.
    pub(crate) async fn started(&self, runs: usize) -> Result<()> {
        self.until(&format!("run {runs}"), |heard| heard.starts >= runs).await
    }

    /// Jobs that producers were told are there, by their diary.
    pub(crate) fn accepted(&self) -> Result<usize> {
        let said = std::fs::read_to_string(self.folder.join(PRODUCED))?;
        Ok(said.matches("\"what\":\"ok\"").count())
    }

    /// Waits until producers are told of more jobs than so many, or have no more.
    pub(crate) async fn accepts_more_than(&self, before: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.accepted()? <= before && before < self.jobs.len() {
            if Instant::now() > end {
                bail!("no job was accepted within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until nothing is on its way to a worker any more, not even a copy of a job that has ended.
    pub(crate) async fn drained(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.place.on_their_way().await?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{left} messages did not come to a worker within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Jobs that began in this process and are not known to be over.
    pub(crate) fn running_in(&self, pid: Option<u32>) -> Result<usize> {
        let mut running = 0;
        self.look(|heard| {
            let here = |process: &&u64| pid.map(u64::from) == Some(**process);
            running = heard.running.values().filter(here).count();
            true
        })?;
        Ok(running)
    }

    /// Waits until every job has ended; false when they do not.
    pub(crate) async fn ended(&self) -> Result<bool> {
        self.ended_of(|_| true).await
    }

    /// The same of jobs of some kinds.
    pub(crate) async fn ended_of(&self, kinds: impl Fn(Kind) -> bool) -> Result<bool> {
        let client = Client::new(self.place.open()?);
        let these = self.jobs.iter().filter(|(_, work)| kinds(work.kind));
        let these = with_children(&these.cloned().collect::<Vec<_>>());
        let ended = all_ended(&client, &these, || self.starts().unwrap_or(0)).await;
        client.close().await;
        Ok(ended)
    }

    /// Waits until every job has ended, stops the workers, and notes what is found; the times.
    pub(crate) async fn over(&self, workers: Vec<Running>) -> Result<Value> {
        self.over_at(&self.place, workers).await
    }

    /// The same, asked by another wire.
    pub(crate) async fn over_at(&self, place: &Place, mut workers: Vec<Running>) -> Result<Value> {
        let struck = self.began.elapsed();
        let client = Client::new(place.open()?);
        let after = Instant::now();
        let ended = if self.forgets {
            let all = self.jobs.len();
            self.until("the last end", |heard| heard.ended.len() >= all)
                .await
                .is_ok()
        } else {
            all_ended(&client, &with_children(&self.jobs), || self.starts().unwrap_or(0)).await
        };
        let drained = after.elapsed();
        let mut statuses = Vec::new();
        for worker in &mut workers {
            if let Some(status) = worker.gone()? {
                bail!("a worker ended by itself, with {status}");
            }
        }
        // Copies that were published twice are dropped by who meets them.
        left(&self.place, &self.jobs, PATIENCE / 2).await?;
        for worker in &workers {
            self.note_usage("after", worker)?;
        }
        for worker in workers {
            statuses.push(worker.stop(PATIENCE).await?);
        }
        note_found(&client, &self.folder, &self.jobs).await?;
        self.note_left().await?;
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

impl Scene {
    /// Notes what is left in the queues when nobody works. RabbitMQ counts late, and a second copy of a job that
    /// ended may still have been on the ladder: whoever meets it drops it.
    async fn note_left(&self) -> Result<()> {
        let mut rest = left(&self.place, &self.jobs, PATIENCE / 20).await?;
        if !rest.is_empty() {
            let sweeper = self.worker()?;
            rest = left(&self.place, &self.jobs, PATIENCE).await?;
            sweeper.stop(PATIENCE).await?;
        }
        let diary = Diary::open(&self.folder, FOUND)?;
        for (name, count) in rest {
            diary.write("left", &[("of", json!(format!("{count} messages in {name}")))])?;
        }
        Ok(())
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The jobs, and the children that they have when they succeed.
fn with_children(jobs: &[(JobId, Work)]) -> Vec<JobId> {
    let mut ids: Vec<JobId> = jobs.iter().map(|(id, _)| *id).collect();
    let parents = jobs.iter().filter(|(_, work)| work.kind == Kind::Parent);
    ids.extend(parents.map(|(id, _)| JobId::child_of(*id, "0")));
    ids
}

/// Jobs that are read in one call.
const READ: usize = 500;

/// Waits until all have ended; false when they do not.
async fn all_ended(client: &Client, ids: &[JobId], starts: impl Fn() -> usize) -> bool {
    let (mut end, mut started) = (Instant::now() + PATIENCE, 0);
    for few in ids.chunks(READ) {
        let mut open = few.to_vec();
        loop {
            // One whose record is not there yet, or is gone, has not ended for who asks.
            if let Ok(views) = client.backend().read(open.clone()).await {
                let has_ended = |view: &Option<JobView>| view.as_ref().is_some_and(|view| view.entry.state.is_ended());
                let mut ended = views.iter().map(has_ended);
                open.retain(|_| !ended.next().unwrap_or(false));
            }
            if open.is_empty() {
                break;
            }
            // As long as jobs begin, nothing is stuck: these may stand behind many others.
            if starts() > started {
                started = starts();
                end = end.max(Instant::now() + PATIENCE / 2);
            }
            if Instant::now() > end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    true
}

/// Notes how each job is remembered.
async fn note_found(client: &Client, folder: &Path, jobs: &[(JobId, Work)]) -> Result<()> {
    let diary = Diary::open(folder, FOUND)?;
    for few in with_children(jobs).chunks(READ) {
        let views = client.backend().read(few.to_vec()).await?;
        for (id, view) in few.iter().zip(views) {
            let Some(view) = view else { continue };
            let result = view
                .entry
                .result
                .as_ref()
                .and_then(|result| result.decode::<Answer>().ok());
            diary.write(
                "job",
                &[
                    ("id", json!(id.to_string())),
                    ("state", json!(view.entry.state.as_str())),
                    ("result", json!(result.map(|(square, _)| square))),
                    ("fence", json!(result.map(|(_, fence)| fence))),
                ],
            )?;
        }
    }
    for process in process::of_run(folder) {
        diary.write("orphan", &[("of", json!(process))])?;
    }
    Ok(())
}

/// Waits until no message is left but the copies of dead jobs; what stays.
async fn left(place: &Place, jobs: &[(JobId, Work)], patience: Duration) -> Result<Vec<(String, u64)>> {
    let end = Instant::now() + patience;
    let dead = jobs.iter().filter(|(_, work)| work.kind.dies()).count() as u64;
    loop {
        let left: Vec<_> = place
            .messages()
            .await?
            .into_iter()
            // The copies of dead jobs stay; a kill between their publish and its note leaves one twice.
            .filter(|(name, count)| !(name.ends_with(".dead") && *count <= 2 * dead))
            .collect();
        if left.is_empty() || Instant::now() > end {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
