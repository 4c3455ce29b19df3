//! Child processes of a worker that crash, grow, loop, stop to make sense, or leave somebody behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::diary::RAN;
use crate::jobs::Kind;
use crate::process::{Setting, Setup, of_run};
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F07",
        what: "jobs abort their child process, are killed by SIGSEGV, panic",
        runs: |options| beside(options, "crashes", &[Kind::Abort, Kind::Segfault, Kind::Panic]),
    },
    Scenario {
        name: "F08",
        what: "jobs take more memory than their child process may hold",
        runs: |options| beside(options, "memory", &[Kind::Hunger]),
    },
    Scenario {
        name: "F10",
        what: "jobs never end: a child process at its hard limit, a thread after its soft one",
        runs: loops,
    },
    Scenario {
        name: "F11",
        what: "child processes end without an answer, or say what is no frame",
        runs: |options| beside(options, "no answer", &WORDLESS),
    },
    Scenario {
        name: "F12",
        what: "jobs leave processes in sessions of their own behind",
        runs: orphans,
    },
];

const WORDLESS: [Kind; 6] = [
    Kind::Exit,
    Kind::Become,
    Kind::Close,
    Kind::Garbage,
    Kind::HalfFrame,
    Kind::HugeFrame,
];

/// How many jobs there are for each nasty one: good ones run beside it on the same executor and on another.
fn among_good(nasty: &[Kind]) -> Vec<Kind> {
    nasty
        .iter()
        .flat_map(|kind| [*kind, Kind::Child, Kind::Succeed, Kind::Child])
        .collect()
}

fn beside(options: Options, plan: &'static str, nasty: &[Kind]) -> Vec<Run> {
    let kinds = among_good(nasty);
    let jobs = (kinds.len() * options.pick(3, 25)) as u64;
    let places = [Where::Sqlite, Where::Fleet];
    let run = |place| Run::new(place, plan, played).jobs(jobs).kinds(&kinds);
    places.into_iter().map(run).collect()
}

fn loops(options: Options) -> Vec<Run> {
    let mut runs = beside(options, "process", &[Kind::Spin]);
    let kinds = [Kind::Deaf, Kind::Succeed, Kind::Succeed];
    let deaf = Run::new(Where::Sqlite, "thread", deaf).jobs(3).kinds(&kinds);
    runs.push(deaf);
    runs
}

fn orphans(options: Options) -> Vec<Run> {
    let kinds = among_good(&[Kind::Orphan]);
    let jobs = 4 * options.pick(3, 25);
    let run = |place| Run::new(place, "orphans", left_behind).jobs(jobs).kinds(&kinds);
    [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
}

fn setting(threads: usize, processes: usize) -> Setting {
    Setting {
        setup: Setup {
            threads,
            processes,
            ..Setup::default()
        },
        ..Setting::default()
    }
}

/// The worker lives through all of it, and holds no more at the end.
async fn played(scene: Arc<Scene>) -> Result<Value> {
    scene.produce().await?;
    let workers = vec![scene.worker_with(&setting(0, 2))?];
    // Its children are there, and one job of each kind has begun.
    scene.started(scene.jobs.len().min(8)).await?;
    scene.baseline(&workers)?;
    scene.over(workers).await
}

/// What a job left behind was there, and is not any more.
async fn left_behind(scene: Arc<Scene>) -> Result<Value> {
    let end = Instant::now() + PATIENCE;
    scene.produce().await?;
    let workers = vec![scene.worker_with(&setting(0, 2))?];
    while !of_run(&scene.folder)
        .iter()
        .any(|process| process.contains("sleep 600"))
    {
        ensure!(Instant::now() < end, "no job left a process behind");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.over(workers).await
}

/// A thread cannot be stopped: its job is asked, its slot is said to be leaked, and comes back with the job's end.
async fn deaf(scene: Arc<Scene>) -> Result<Value> {
    let mut jobs = scene.jobs.clone();
    for (_, work) in jobs.iter_mut().filter(|(_, work)| work.kind == Kind::Deaf) {
        work.millis = 12_000;
    }
    scene.produce_these(&jobs).await?;
    let facts = scene.over(vec![scene.worker_with(&setting(1, 0))?]).await?;
    let said = std::fs::read_to_string(scene.folder.join("worker.log"))?;
    ensure!(
        said.contains("its slot is leaked until it ends"),
        "nobody said that a slot is leaked"
    );
    let ran = std::fs::read_to_string(scene.folder.join(RAN))?;
    ensure!(ran.contains("\"asked\""), "the job was not asked to end");
    Ok(facts)
}
