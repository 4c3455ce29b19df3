//! F02: a process is killed at one crash point; another one carries on.

use anyhow::{Context, Result};
use millhand_broker::crash::Point;
use serde_json::Value;

use crate::jobs::Kind;
use crate::process::Running;
use crate::scene::{PATIENCE, Scene};

/// One crash of one process.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) point: Point,
    /// The process crashes when it comes there for this time.
    pub(crate) at: u32,
    pub(crate) kinds: Vec<Kind>,
}

impl Crash {
    /// Runs it; what became of the jobs is in the diaries.
    pub(crate) async fn run(&self, scene: &Scene, seed: u64) -> Result<Value> {
        let plan = format!("{}:{}", self.point.name, self.at);
        let enqueues = self.point.name.starts_with("push.");
        let mut struck = if enqueues {
            let (seed, kinds) = (seed.to_string(), serde_json::to_string(&self.kinds)?);
            let words = [seed.as_str(), kinds.as_str()];
            Running::start("produce", &scene.place, &scene.folder, &words, Some(&plan))?
        } else {
            scene.produce().await?;
            scene.worker(Some(&plan))?
        };
        let pid = struck.pid();
        struck.crashed(PATIENCE).await.with_context(|| plan.clone())?;
        scene.note("kill", pid)?;
        if enqueues {
            // With the same ids: what is in the queue already is not there twice.
            scene.produce().await?;
        }
        scene.over(vec![scene.worker(None)?]).await
    }
}
