//! Workers that are told to stop in the middle of their work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::jobs::Kind;
use crate::process::{Running, Setting, Setup};
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F04",
        what: "a worker is told to stop: its jobs are short enough, too long, or it is told twice",
        runs: stops,
    },
    Scenario {
        name: "F05",
        what: "workers are stopped and replaced, one after the other",
        runs: |options| {
            let restarts = options.pick(5, 25);
            let plan = format!("{restarts} restarts");
            let run = |place| {
                let run = Run::new(place, plan.clone(), move |scene| restarted(scene, restarts));
                run.jobs(60 * restarts as u64)
            };
            [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
        },
    },
];

/// How a stop goes.
#[derive(Clone, Copy, Debug)]
struct Stop {
    plan: &'static str,
    grace: Duration,
    /// Told once more after this.
    again: Option<Duration>,
    /// How long the jobs take, at least and at most.
    lasts: (u64, u64),
}

const STOPS: [Stop; 3] = [
    Stop {
        plan: "jobs shorter than the grace",
        grace: Duration::from_secs(3),
        again: None,
        lasts: (100, 1500),
    },
    Stop {
        plan: "jobs longer than the grace",
        grace: Duration::from_millis(300),
        again: None,
        lasts: (1500, 2500),
    },
    Stop {
        plan: "told twice",
        grace: Duration::from_secs(30),
        again: Some(Duration::from_millis(200)),
        lasts: (1500, 2500),
    },
];

/// What the machine may add to the times below.
const SLACK: Duration = Duration::from_secs(1);

fn stops(options: Options) -> Vec<Run> {
    let mut runs = Vec::new();
    for stop in STOPS {
        for place in [Where::Sqlite, Where::Fleet] {
            // What is asked of every day is no figure.
            let (times, patience) = options.pick((1, 10 * SLACK), (10, SLACK));
            let run = Run::new(place, stop.plan, move |scene| stopped(scene, stop, times, patience));
            runs.push(run.jobs(20 + 20 * times as u64).kinds(&[Kind::Succeed, Kind::Child]));
        }
    }
    runs
}

/// One of two workers is told to stop, and replaced, so many times.
async fn stopped(scene: Arc<Scene>, stop: Stop, times: usize, patience: Duration) -> Result<Value> {
    let within = stop.again.unwrap_or(stop.grace);
    let mut jobs = scene.jobs.clone();
    let (least, most) = stop.lasts;
    for (_, work) in &mut jobs {
        work.millis = least + work.n * 97 % (most - least);
    }
    scene.produce_these(&jobs).await?;
    let setting = Setting {
        setup: Setup {
            asyncs: 4,
            processes: 2,
            grace: millis(stop.grace),
            ..Setup::default()
        },
        ..Setting::default()
    };
    let mut workers = vec![scene.worker_with(&setting)?, scene.worker_with(&setting)?];
    let (mut longest, mut cut_short) = (Duration::ZERO, 0);
    for time in 0..times {
        scene.started(10 + 20 * time).await?;
        let mut worker = std::mem::replace(&mut workers[time % 2], scene.worker_with(&setting)?);
        let pid = worker.pid();
        let running = scene.running_in(pid)?;
        ensure!(running > 0, "the worker ran nothing when it was told to stop");
        let began = Instant::now();
        worker.tell_to_stop()?;
        if let Some(again) = stop.again {
            tokio::time::sleep(again).await;
            worker.tell_to_stop()?;
        }
        let status = worker.ended(PATIENCE).await?;
        ensure!(status.success(), "it ended with {status}");
        longest = longest.max(began.elapsed());
        let left = scene.running_in(pid)?;
        if stop.lasts.1 < millis(within) {
            // Not noted as harm: nothing of it may run twice.
            ensure!(left == 0, "{left} of {running} jobs did not finish");
        } else if left > 0 {
            scene.note("interrupt", pid)?;
        }
        cut_short += left;
    }
    ensure!(cut_short > 0 || stop.lasts.1 < millis(within), "no job was cut short");
    let mut facts = scene.over(workers).await?;
    facts["t_exit"] = millis(longest).into();
    facts["t_exit_bound"] = millis(within + SLACK).into();
    ensure!(longest < within + patience, "it took {longest:?} to end");
    facts["cut_short"] = cut_short.into();
    Ok(facts)
}

async fn restarted(scene: Arc<Scene>, restarts: usize) -> Result<Value> {
    scene.produce().await?;
    let mut workers = vec![scene.worker()?, scene.worker()?];
    let mut longest = Duration::ZERO;
    for restart in 1..=restarts {
        scene.started(restart * scene.jobs.len() / (restarts + 1)).await?;
        let worker: Running = std::mem::replace(&mut workers[restart % 2], scene.worker()?);
        let began = Instant::now();
        let status = worker.stop(PATIENCE).await?;
        ensure!(status.success(), "it ended with {status}");
        longest = longest.max(began.elapsed());
    }
    let mut facts = scene.over(workers).await?;
    facts["t_exit"] = millis(longest).into();
    Ok(facts)
}
