//! More than there is time for: a backlog, and retries that come all together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::diary::{RAN, lines};
use crate::jobs::{Kind, STORM};
use crate::load;
use crate::process::{Setting, Setup};
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F43",
        what: "many more jobs are enqueued than workers can run",
        runs: |options| {
            let jobs = options.pick(20_000, 1_000_000);
            let run = |place| {
                let run = Run::new(place, format!("a backlog of {jobs} jobs"), flood);
                run.jobs(jobs).packed().short_jobs(true).kinds(&[Kind::Succeed])
            };
            [Where::Sqlite, Where::OwnFleet].into_iter().map(run).collect()
        },
    },
    Scenario {
        name: "F45",
        what: "all jobs fail at the same time, and are tried again",
        runs: |options: Options| {
            let jobs = options.pick(200, 2000);
            let run = |place| {
                Run::new(place, "two failures each", storm)
                    .jobs(jobs)
                    .kinds(&[Kind::Storm])
            };
            [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
        },
    },
];

fn wide() -> Setting {
    Setting {
        setup: Setup {
            asyncs: 64,
            ..Setup::default()
        },
        ..Setting::default()
    }
}

async fn flood(scene: Arc<Scene>) -> Result<Value> {
    // One that is there when the flood comes, and must not grow with it.
    let first = scene.worker_with(&wide())?;
    scene.note("fault", None)?;
    let began = Instant::now();
    load::flood(&scene.place, &scene.folder, &scene.jobs).await?;
    let enqueued = began.elapsed();
    let before = scene.starts()?;
    scene.note("heal", None)?;
    let workers = vec![first, scene.worker_with(&wide())?];
    let (drain, mut most) = (Instant::now(), 0);
    {
        let mut ended = std::pin::pin!(scene.ended());
        loop {
            tokio::select! {
                ended = &mut ended => {
                    ensure!(ended?, "not all jobs ended");
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            for worker in &workers {
                most = most.max(worker.usage()?.rss_kib);
            }
        }
    }
    let drained = drain.elapsed();
    let mut facts = scene.over(workers).await?;
    let jobs = scene.jobs.len();
    facts["t_enqueued"] = millis(enqueued).into();
    facts["backlog"] = (jobs - before).into();
    facts["drained_per_second"] = json!(((jobs - before) as f64 / drained.as_secs_f64()).round());
    facts["rss_kib_most"] = most.into();
    ensure!(most < 256 << 10, "a worker held {most} KiB");
    Ok(facts)
}

async fn storm(scene: Arc<Scene>) -> Result<Value> {
    let mut jobs = scene.jobs.clone();
    jobs.iter_mut().for_each(|(_, work)| work.millis = 0);
    scene.produce_these(&jobs).await?;
    scene.note("fault", None)?;
    let facts = scene.over(vec![scene.worker_with(&wide())?]).await?;
    let gaps = gaps(&scene)?;
    let mut facts = facts;
    for (at, (waits, (least, most))) in gaps.iter().zip(STORM.map(|ms| (ms / 2, ms))).enumerate() {
        ensure!(waits.len() == scene.jobs.len(), "{} jobs were tried again", waits.len());
        let (first, last) = (waits.iter().min().copied(), waits.iter().max().copied());
        // A ladder's lowest step is a second.
        ensure!(first >= Some(least - 20), "one waited {first:?} of at least {least} ms");
        // Evenly spread, each second of the span holds its share; two of them are too many.
        let mut seconds: HashMap<u64, usize> = HashMap::new();
        waits
            .iter()
            .for_each(|wait| *seconds.entry(wait / 1000).or_default() += 1);
        let fullest = seconds.values().max().copied().unwrap_or_default();
        let even = waits.len() as f64 * 1000.0 / (most - least) as f64;
        facts[format!("retry_{}", at + 1)] = json!({
            "least": first,
            "most": last,
            "policy": [least, most],
            "fullest_second": fullest,
            "evenly": even.round(),
        });
        ensure!(
            (fullest as f64) < 2.0 * even,
            "{fullest} of {} were tried again in one second",
            waits.len()
        );
    }
    Ok(facts)
}

/// Milliseconds from each failure to the next start, by which failure it was.
fn gaps(scene: &Scene) -> Result<[Vec<u64>; 2]> {
    let mut gaps = [Vec::new(), Vec::new()];
    let mut failed: HashMap<String, (usize, u64)> = HashMap::new();
    for line in lines(&scene.folder, RAN)? {
        let line = line?;
        let (Some(id), Some(at)) = (line["id"].as_str(), line["at"].as_u64()) else {
            continue;
        };
        match line["what"].as_str() {
            Some("failed") => {
                let times = failed.get(id).map_or(0, |(times, _)| times + 1);
                failed.insert(id.to_owned(), (times, at));
            }
            Some("start") => {
                if let Some((times, since)) = failed.get(id)
                    && let Some(gaps) = gaps.get_mut(*times)
                {
                    gaps.push(at - since);
                }
            }
            _ => {}
        }
    }
    Ok(gaps)
}
