//! Workers that are killed, or stand still, in the middle of their work, from outside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::sqlite;
use crate::process::{Running, Setting};
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F01",
        what: "workers are killed and replaced while jobs run",
        runs: kills,
    },
    Scenario {
        name: "F03",
        what: "a worker stands still for longer than its lease, and goes on",
        runs: freezes,
    },
];

fn both(run: impl Fn(Where) -> Run) -> Vec<Run> {
    [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
}

fn kills(options: Options) -> Vec<Run> {
    let (kills, jobs) = options.pick((3, 600), (20, 200_000));
    both(|place| {
        let run = Run::new(place, format!("{kills} kills"), move |scene| kill(scene, kills));
        run.jobs(jobs).short_jobs(!options.short)
    })
}

fn freezes(options: Options) -> Vec<Run> {
    // RabbitMQ gives its jobs to others after two missed heartbeats.
    let frozen = Duration::from_secs(options.seconds(20, 180));
    let plan = format!("frozen for {frozen:?}");
    let mut runs = both(|place| Run::new(place, plan.clone(), move |scene| freeze(scene, frozen)));
    runs.push(Run::new(
        Where::Sqlite,
        format!("{plan} inside a transaction"),
        move |scene| freeze_inside(scene, frozen),
    ));
    runs
}

/// Of two workers one after the other is killed, and replaced, while jobs run.
async fn kill(scene: Arc<Scene>, kills: usize) -> Result<Value> {
    let jobs = scene.jobs.len();
    // Many are still on their way when the first kill comes.
    let load = scene.produce_beside(if jobs > 10_000 { 500 } else { 4 });
    let setting = Setting::default();
    let mut workers = vec![scene.worker_with(&setting)?, scene.worker_with(&setting)?];
    for kill in 1..=kills {
        scene.started(kill * jobs / (kills + 1)).await?;
        let worker = std::mem::replace(&mut workers[kill % 2], scene.worker_with(&setting)?);
        scene.kill(worker).await?;
    }
    load.await??;
    let mut facts = scene.over(workers).await?;
    let slots = setting.setup.slots();
    facts["bound"] = ((slots + settle_window(slots)) * kills).into();
    Ok(facts)
}

/// Jobs that a worker with so many slots lets end before the first of them is remembered.
const fn settle_window(slots: usize) -> usize {
    4 * slots
}

/// A worker stands still, and goes on when others have done its jobs.
async fn freeze(scene: Arc<Scene>, frozen: Duration) -> Result<Value> {
    scene.produce().await?;
    let sleeper = scene.worker()?;
    scene.started(scene.jobs.len() / 4).await?;
    sleep_on(scene, sleeper, frozen).await
}

/// A worker stands still while it holds SQLite's lock: others, also one that starts, wait for it.
async fn freeze_inside(scene: Arc<Scene>, frozen: Duration) -> Result<Value> {
    scene.produce().await?;
    let sleeper = scene.worker_with(&Setting::crash("settle.before_commit:20:stall"))?;
    scene.started(20).await?;
    let file = scene.place.file()?;
    let end = Instant::now() + PATIENCE;
    // A transaction of everyday does not last so long.
    let mut found = 0;
    while found < 20 {
        ensure!(Instant::now() < end, "it does not stand still inside a transaction");
        found = if sqlite::is_locked(&file)? { found + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sleep_on(scene, sleeper, frozen).await
}

async fn sleep_on(scene: Arc<Scene>, sleeper: Running, frozen: Duration) -> Result<Value> {
    sleeper.freeze()?;
    scene.note("freeze", sleeper.pid())?;
    let other = scene.worker()?;
    tokio::time::sleep(frozen).await;
    sleeper.thaw()?;
    scene.note("heal", None)?;
    scene.over(vec![sleeper, other]).await
}
