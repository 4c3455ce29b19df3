//! A store that forgets.

use anyhow::Result;
use serde_json::Value;

use crate::scene::Scene;

/// F33: Redis loses all keys while jobs run, so many times.
pub(crate) async fn flushes(scene: &Scene, flushes: usize) -> Result<Value> {
    scene.produce().await?;
    let workers = vec![scene.worker(None)?, scene.worker(None)?];
    for flush in 1..=flushes {
        scene.started(flush * scene.jobs.len() / (flushes + 1)).await?;
        let place = scene.place.clone();
        tokio::task::spawn_blocking(move || place.flush()).await?;
        scene.note("flush", None)?;
    }
    scene.over(workers).await
}
