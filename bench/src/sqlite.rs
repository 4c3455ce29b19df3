//! One file: enqueue, drain, round trip, idling.

mod raw;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use millhand_broker::sqlite::Sqlite;
use millhand_client::Client;

use self::raw::Raw;
use crate::figures::{Number, Pairs, Times};
use crate::machine::Machine;
use crate::millhand;
use crate::noop::{ARGUMENT, bodies};
use crate::options::Options;
use crate::report::Report;
use crate::running::{Running, SLOTS};
use crate::stopwatch::{Sample, Start};

/// Jobs that a client hands over at once (`client/src/pack.rs`).
const INSERTS: usize = 1024;
/// The goals.
const ENQUEUE: f64 = 0.4;
const DRAIN: f64 = 0.25;

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::Builder::new()
        .prefix("millhand-bench-")
        .tempdir_in(&options.dir)?;
    let machine = Machine::look(vec![format!("SQLite {}", rusqlite::version())], dir.path());
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
    eprintln!("{:?} of idling", options.idle);
    let idle = idle(options, dir.path()).await?;
    Ok(Report {
        machine,
        settings: vec![
            ("jobs", options.jobs),
            ("rounds", options.rounds),
            ("jobs per parcel", options.pack),
            ("bytes of arguments", ARGUMENT),
            ("raw inserts at once", INSERTS),
            ("raw claims at once", SLOTS),
        ],
        pairs: vec![
            Pairs::of("enqueue", options.jobs, Some(ENQUEUE), &enqueues),
            Pairs::of("drain", options.jobs, Some(DRAIN), &drains),
        ],
        beside: Vec::new(),
        times,
        numbers: vec![Number::idle(&idle)],
        baselines: Vec::new(),
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
    let bodies = bodies(count);

    let raw_enqueue = watch(|| raw.insert(&bodies, INSERTS))?;
    let enqueue = millhand::enqueue(&client, options.pack, count).await?;
    let raw_drain = watch(|| raw.drain(count, SLOTS))?;
    let drain = millhand::drain(&backend, count).await?;
    Ok(((raw_enqueue, enqueue), (raw_drain, drain)))
}

/// From enqueue to result, one job at a time, and what one commit costs here.
async fn trips(options: &Options, dir: &Path) -> Result<Vec<Times>> {
    let dir = tempfile::tempdir_in(dir)?;
    let commits = Raw::open(&dir.path().join("raw.db"))?.commits(&bodies(options.trips))?;
    let backend = Sqlite::open(dir.path().join("millhand.db"))?;
    let (enqueues, trips) = millhand::trips(&backend, options.trips).await?;
    Ok(vec![
        Times::of("raw: one insert, one commit", commits),
        Times::of("millhand: enqueue", enqueues),
        Times::of("millhand: enqueue to result", trips),
    ])
}

/// This process while its worker waits for work.
async fn idle(options: &Options, dir: &Path) -> Result<Sample> {
    let dir = tempfile::tempdir_in(dir)?;
    let backend = Sqlite::open(dir.path().join("millhand.db"))?;
    let (worker, _client) = Running::idle(&backend).await?;
    let start = Start::now()?;
    tokio::time::sleep(options.idle).await;
    let sample = start.end()?;
    worker.stop().await?;
    Ok(sample)
}

fn watch(work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let start = Start::now()?;
    work()?;
    start.end()
}
