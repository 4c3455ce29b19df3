//! How far an operator's word reaches, and how soon a long job whose worker is gone runs again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millhand_client::Client;
use millhand_proto::QueueName;
use millhand_servers::Manner;
use serde_json::Value;

use crate::jobs::Kind;
use crate::load::QUEUE;
use crate::process::Setting;
use crate::scenario::{Run, Scenario, Where};
use crate::scene::{Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "R01",
        what: "a queue is paused while jobs run, and one worker does not hear of it",
        runs: |_| vec![Run::new(Where::OwnFleet, "five workers, one deaf for 3 s", pause).jobs(3000)],
    },
    Scenario {
        name: "R02",
        what: "a worker is killed under jobs that it has detached",
        runs: |_| {
            let run = Run::new(Where::Fleet, "killed after 15 s", detached).jobs(2);
            vec![run.kinds(&[Kind::Succeed])]
        },
    },
];

/// When a queue is paused, and no worker begins a job of it any more: by the handlers' diary.
async fn pause(scene: Arc<Scene>) -> Result<Value> {
    let (place, _to_rabbit, to_redis) = scene.place.wired()?;
    let mut workers = vec![scene.worker_with(&Setting::at(place))?];
    for _ in 0..4 {
        workers.push(scene.worker()?);
    }
    let load = scene.produce_slowly(scene.place.clone(), 200);
    scene.started(300).await?;
    let queue = QueueName::new(QUEUE).context("the queue's name")?;
    let client = Client::new(scene.place.open()?);
    // The push to the first one is lost; it reads the pause with a beat.
    to_redis.be(Manner {
        dumb: true,
        ..Manner::default()
    });
    scene.note("fault", None)?;
    let paused = Instant::now();
    client.admin().pause(queue.clone()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    to_redis.mend();
    scene.note("heal", None)?;
    let (mut last, mut starts) = (Duration::ZERO, scene.starts()?);
    while paused.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = scene.starts()?;
        if now > starts {
            (last, starts) = (paused.elapsed(), now);
        }
    }
    // As docs/operations.md says, and a little for who is looked at.
    ensure!(
        last <= Duration::from_secs(7),
        "jobs still began {last:?} after the pause"
    );
    ensure!(
        starts < scene.jobs.len(),
        "all jobs had begun before the pause was everywhere"
    );
    client.admin().resume(queue).await?;
    client.close().await;
    load.await??;
    let mut facts = scene.over(workers).await?;
    facts["t_paused"] = millis(last).into();
    Ok(facts)
}

/// A detached job does not hold its parcel: its watch copy finds out that nobody runs it.
async fn detached(scene: Arc<Scene>) -> Result<Value> {
    let mut jobs = scene.jobs.clone();
    for (_, work) in &mut jobs {
        work.millis = 25_000;
    }
    scene.produce_these(&jobs).await?;
    let worker = scene.worker()?;
    scene.started(jobs.len()).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let other = scene.worker()?;
    scene.kill(worker).await?;
    scene.over(vec![other]).await
}
