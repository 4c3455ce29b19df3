//! Workers that are killed, or stand still, in the middle of their work, from outside.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::Scene;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F01",
        what: "workers are killed and replaced while jobs run",
        runs: |options| {
            let kills = options.pick(3, 20);
            both(|place| {
                Run::new(place, format!("{kills} kills"), move |scene| kill(scene, kills)).jobs(200 * kills as u64)
            })
        },
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

fn freezes(options: Options) -> Vec<Run> {
    // RabbitMQ gives its jobs to others after two missed heartbeats.
    let frozen = Duration::from_secs(options.seconds(20, 180));
    both(|place| {
        Run::new(place, format!("frozen for {frozen:?}"), move |scene| {
            freeze(scene, frozen)
        })
    })
}

/// Of two workers one after the other is killed, and replaced, while jobs run.
async fn kill(scene: Arc<Scene>, kills: usize) -> Result<Value> {
    scene.produce().await?;
    let mut workers = vec![scene.worker()?, scene.worker()?];
    let step = scene.jobs.len() / (kills + 1);
    for kill in 1..=kills {
        scene.started(kill * step).await?;
        let worker = std::mem::replace(&mut workers[kill % 2], scene.worker()?);
        scene.kill(worker).await?;
    }
    scene.over(workers).await
}

/// A worker stands still, and goes on when others have done its jobs.
async fn freeze(scene: Arc<Scene>, frozen: Duration) -> Result<Value> {
    scene.produce().await?;
    let sleeper = scene.worker()?;
    scene.started(scene.jobs.len() / 4).await?;
    sleeper.freeze()?;
    scene.note("freeze", sleeper.pid())?;
    let other = scene.worker()?;
    tokio::time::sleep(frozen).await;
    sleeper.thaw()?;
    scene.note("heal", None)?;
    scene.over(vec![sleeper, other]).await
}
