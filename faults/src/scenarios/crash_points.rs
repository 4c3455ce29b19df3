//! A process is killed, or stands still, at one crash point; another one carries on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use millhand_broker::crash::{POINTS, Point};
use serde_json::Value;

use crate::jobs::Kind;
use crate::process::Setting;
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "F02",
    what: "a worker, or a producer, is killed or stands still at every step of a job's path",
    runs,
}];

/// Jobs of one crash.
const JOBS: u64 = 25;

fn runs(options: Options) -> Vec<Run> {
    let mut runs = Vec::new();
    for place in [Where::Sqlite, Where::Fleet] {
        let fleet = place == Where::Fleet;
        for point in POINTS
            .iter()
            .filter(|point| if fleet { point.fleet } else { point.sqlite })
        {
            runs.push(crash(place, *point, 2, &Kind::ALL));
            if options.short {
                continue;
            }
            for kind in Kind::ALL {
                runs.extend([1, 3].map(|at| crash(place, *point, at, &[kind])));
            }
            // A thread that stands still inside SQLite's transaction is F03's.
            if point.name != "settle.before_commit" {
                runs.push(stall(place, *point));
            }
        }
    }
    runs
}

fn crash(place: Where, point: Point, at: u32, kinds: &[Kind]) -> Run {
    let plan = format!("{}:{at}", point.name);
    let setting = Setting::crash(&plan);
    let run = Run::new(place, plan, move |scene| crashed(scene, point, setting));
    run.jobs(JOBS).kinds(kinds)
}

async fn crashed(scene: Arc<Scene>, point: Point, setting: Setting) -> Result<Value> {
    let enqueues = point.name.starts_with("push.");
    let mut struck = if enqueues {
        scene.producer(&setting)?
    } else {
        scene.produce().await?;
        scene.worker_with(&setting)?
    };
    let pid = struck.pid();
    struck.crashed(PATIENCE).await.context(point.name)?;
    scene.note("kill", pid)?;
    if enqueues {
        // With the same ids: what is in the queue already is not there twice.
        scene.produce().await?;
    }
    scene.over(vec![scene.worker()?]).await
}

/// A worker stands still at the point, and goes on as if nothing had happened.
fn stall(place: Where, point: Point) -> Run {
    let plan = format!("{}:2:stall", point.name);
    let setting = Setting::crash(&plan);
    Run::new(place, plan, move |scene| stalled(scene, point, setting)).jobs(JOBS)
}

async fn stalled(scene: Arc<Scene>, point: Point, setting: Setting) -> Result<Value> {
    if point.name.starts_with("push.") {
        let mut producer = scene.producer(&setting)?;
        let worker = scene.worker()?;
        producer.ended(PATIENCE).await?;
        return scene.over(vec![worker]).await;
    }
    scene.produce().await?;
    let struck = scene.worker_with(&setting)?;
    scene.started(1).await?;
    // What it holds may be taken from it, as from one that is frozen.
    scene.note("freeze", struck.pid())?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = scene.worker()?;
    scene.over(vec![struck, other]).await
}
