//! A store that dies, forgets, or does not answer.

use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use crate::scenario::{Run, Scenario, Where};
use crate::scene::Scene;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "F33",
    what: "Redis loses all its keys while jobs run",
    runs: |options| {
        let flushes = options.pick(2, 10);
        let flushed = Run::new(Where::OwnFleet, format!("{flushes} flushes"), move |scene| {
            flush(scene, flushes)
        });
        vec![flushed.jobs(1000).forgets()]
    },
}];

async fn flush(scene: Arc<Scene>, flushes: usize) -> Result<Value> {
    scene.produce().await?;
    let workers = vec![scene.worker()?, scene.worker()?];
    for flush in 1..=flushes {
        scene.started(flush * scene.jobs.len() / (flushes + 1)).await?;
        scene.place.with_redis(|redis| redis.flush()).await?;
        scene.note("flush", None)?;
    }
    scene.over(workers).await
}
