//! One file: enqueue, drain, round trip, idling.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millhand_broker::Backend;
use millhand_broker::sqlite::Sqlite;
use millhand_client::{Client, Enqueued};
use millhand_proto::Task;
use millhand_worker::{Slots, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::figures::{Idle, Pairs, Report, Sample, Times};
use crate::machine::{Machine, cpu_time};
use crate::raw::Raw;

/// Bytes of arguments of each job.
const ARGUMENT: usize = 200;
/// Jobs that a client hands over at once (`client/src/pack.rs`).
const INSERTS: usize = 1024;
/// Async slots of the worker.
const SLOTS: usize = 100;
/// The goals of issue 2.
const ENQUEUE: f64 = 0.4;
const DRAIN: f64 = 0.25;
const IDLE: f64 = 0.5;

/// What to measure.
pub(crate) struct Options {
    pub(crate) jobs: usize,
    pub(crate) rounds: usize,
    pub(crate) pack: usize,
    pub(crate) trips: usize,
    pub(crate) idle: usize,
    pub(crate) dir: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            jobs: 20_000,
            rounds: 7,
            pack: 1,
            trips: 2_000,
            idle: 20,
            dir: std::env::temp_dir(),
        }
    }
}

/// A job that does nothing.
#[derive(Serialize, Deserialize)]
struct Noop {
    data: String,
}

impl Task for Noop {
    const NAME: &'static str = "noop";
    type Output = usize;
}

/// Arguments that are not all the same.
fn data(job: usize) -> String {
    format!("{job:0>ARGUMENT$}")
}

/// The same for the raw loop.
fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|job| data(job).into_bytes()).collect()
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::Builder::new()
        .prefix("millhand-bench-")
        .tempdir_in(&options.dir)?;
    let machine = Machine::look(dir.path());
    let (mut enqueues, mut drains) = (Vec::new(), Vec::new());
    // The first round warms up and does not count.
    for round in 0..=options.rounds {
        let (enqueue, drain) = pair(options, dir.path()).await?;
        if round > 0 {
            eprintln!(
                "round {round} of {}: enqueue {}, drain {}",
                options.rounds,
                shown(enqueue),
                shown(drain)
            );
            enqueues.push(enqueue);
            drains.push(drain);
        }
    }
    eprintln!("{} round trips", options.trips);
    let times = trips(options, dir.path()).await?;
    eprintln!("{} s of idling", options.idle);
    let idle = idle(options, dir.path()).await?;
    #[allow(clippy::cast_precision_loss, reason = "a number of jobs is far below 2^52")]
    let jobs = options.jobs as f64;
    Ok(Report {
        machine,
        jobs: options.jobs,
        rounds: options.rounds,
        pack: options.pack,
        argument_bytes: ARGUMENT,
        insert_batch: INSERTS,
        claim_batch: SLOTS,
        pairs: vec![
            Pairs::of("enqueue", jobs, ENQUEUE, &enqueues),
            Pairs::of("drain", jobs, DRAIN, &drains),
        ],
        times,
        idle,
    })
}

fn shown((raw, ours): (Sample, Sample)) -> String {
    format!("{:.3} s and {:.3} s", raw.wall.as_secs_f64(), ours.wall.as_secs_f64())
}

/// Raw enqueue, Millhand's enqueue, raw drain, Millhand's drain, on two new files.
async fn pair(options: &Options, dir: &Path) -> Result<((Sample, Sample), (Sample, Sample))> {
    let dir = tempfile::tempdir_in(dir)?;
    let mut raw = Raw::open(&dir.path().join("raw.db"))?;
    let backend = Sqlite::open(dir.path().join("millhand.db"))?;
    let client = Client::new(Arc::clone(&backend));
    let count = options.jobs;

    // Made before the clock starts: what is measured is the way into the file.
    let bodies = bodies(count);
    let jobs: Vec<Noop> = (0..count).map(|job| Noop { data: data(job) }).collect();

    let raw_enqueue = watch(|| raw.insert(&bodies, INSERTS))?;
    let start = Start::now()?;
    let enqueued = client.enqueue_packed(options.pack, jobs).await;
    let enqueue = start.end()?;
    let accepted = enqueued.iter().filter(|e| matches!(e, Enqueued::Accepted(_))).count();
    ensure!(accepted == count, "{accepted} of {count} jobs were accepted");

    let raw_drain = watch(|| raw.drain(count, SLOTS))?;
    let start = Start::now()?;
    let crew = Running::start(&backend);
    while crew.ran.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All ran; when nothing is left in the queue all are remembered.
    loop {
        let left = backend.pending(Vec::new()).await?;
        if left.ready + left.held == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let drain = start.end()?;
    let ran = crew.stop().await?;
    ensure!(ran == count, "{ran} runs of {count} jobs");
    Ok(((raw_enqueue, enqueue), (raw_drain, drain)))
}

/// From enqueue to result, one job at a time, and what one commit costs here.
async fn trips(options: &Options, dir: &Path) -> Result<Vec<Times>> {
    let dir = tempfile::tempdir_in(dir)?;
    let commits = Raw::open(&dir.path().join("raw.db"))?.commits(&bodies(options.trips))?;
    let backend = Sqlite::open(dir.path().join("millhand.db"))?;
    let client = Client::new(Arc::clone(&backend));
    let crew = Running::start(&backend);
    let (mut enqueues, mut trips) = (Vec::new(), Vec::new());
    for job in 0..options.trips + 50 {
        let started = Instant::now();
        let handle = client.enqueue(Noop { data: data(job) }).await?;
        let enqueued = started.elapsed();
        let result = handle.wait(Duration::from_secs(30)).await?;
        let whole = started.elapsed();
        ensure!(matches!(result, Ok(ARGUMENT)), "a wrong result");
        // The first ones start things.
        if job >= 50 {
            enqueues.push(enqueued);
            trips.push(whole);
        }
    }
    crew.stop().await?;
    Ok(vec![
        Times::of("raw: one insert, one commit", commits),
        Times::of("millhand: enqueue", enqueues),
        Times::of("millhand: enqueue to result", trips),
    ])
}

/// CPU time of this process while its worker waits for work.
async fn idle(options: &Options, dir: &Path) -> Result<Idle> {
    let dir = tempfile::tempdir_in(dir)?;
    let backend = Sqlite::open(dir.path().join("millhand.db"))?;
    let client = Client::new(Arc::clone(&backend));
    let crew = Running::start(&backend);
    let handle = client.enqueue(Noop { data: data(0) }).await?;
    ensure!(handle.wait(Duration::from_secs(30)).await?.is_ok(), "a job failed");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Start::now()?;
    tokio::time::sleep(Duration::from_secs(u64::try_from(options.idle)?)).await;
    let Sample { wall, cpu } = start.end()?;
    crew.stop().await?;
    let percent = 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
    Ok(Idle {
        seconds: wall.as_secs_f64(),
        percent,
        goal: IDLE,
        reached: percent <= IDLE,
    })
}

/// A worker under way.
struct Running {
    ran: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    worker: tokio::task::JoinHandle<Result<(), millhand_worker::WorkerError>>,
}

impl Running {
    fn start(backend: &Arc<dyn Backend>) -> Self {
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ran);
        let (stop, stopped) = oneshot::channel();
        let worker = Worker::new(Arc::clone(backend))
            .slots(Slots {
                asyncs: SLOTS,
                ..Slots::default()
            })
            .on_async(move |job: Noop, _| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(job.data.len()))
            })
            .run(async {
                let _ = stopped.await;
            });
        Self {
            ran,
            stop,
            worker: tokio::spawn(worker),
        }
    }

    /// Stops it and tells how many runs it made.
    async fn stop(self) -> Result<usize> {
        let _ = self.stop.send(());
        self.worker.await??;
        Ok(self.ran.load(Ordering::Relaxed))
    }
}

/// The start of a measurement.
struct Start {
    at: Instant,
    cpu: Duration,
}

impl Start {
    fn now() -> Result<Self> {
        Ok(Self {
            cpu: cpu_time()?,
            at: Instant::now(),
        })
    }

    fn end(&self) -> Result<Sample> {
        Ok(Sample {
            wall: self.at.elapsed(),
            cpu: cpu_time()?.saturating_sub(self.cpu),
        })
    }
}

fn watch(work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let start = Start::now()?;
    work()?;
    start.end()
}
