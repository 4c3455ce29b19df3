//! Workers that are killed, or stand still, in the middle of their work, from outside.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::scene::Scene;

/// F01: of two workers one after the other is killed, and replaced, while jobs run.
pub(crate) async fn kills(scene: &Scene, kills: usize) -> Result<Value> {
    scene.produce().await?;
    let mut workers = vec![scene.worker(None)?, scene.worker(None)?];
    let step = scene.jobs.len() / (kills + 1);
    for kill in 1..=kills {
        scene.started(kill * step).await?;
        let mut worker = std::mem::replace(&mut workers[kill % 2], scene.worker(None)?);
        let pid = worker.pid();
        worker.kill().await?;
        scene.note("kill", pid)?;
    }
    scene.over(workers).await
}

/// F03: a worker stands still for longer than its lease, and goes on when others have done its jobs.
pub(crate) async fn freeze(scene: &Scene, frozen: Duration) -> Result<Value> {
    scene.produce().await?;
    let sleeper = scene.worker(None)?;
    scene.started(scene.jobs.len() / 4).await?;
    sleeper.freeze()?;
    // What it had begun may run beside it: as after a kill.
    scene.note("kill", sleeper.pid())?;
    let other = scene.worker(None)?;
    tokio::time::sleep(frozen).await;
    sleeper.thaw()?;
    scene.over(vec![sleeper, other]).await
}
