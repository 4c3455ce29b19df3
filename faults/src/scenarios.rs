//! The scenarios by name, and their runs, several at once.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use millhand_broker::crash::POINTS;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::crash_points::Crash;
use crate::jobs::Kind;
use crate::place::Place;

pub(crate) use crate::crash_points::JOBS;

/// Every scenario, with what is done.
pub(crate) const NAMES: &[(&str, &str)] = &[(
    "F02",
    "a worker, or a producer, is killed at every step of a job's path, on SQLite and on RabbitMQ and Redis",
)];

/// Runs at once: most of each is waiting for a lease to end.
const AT_ONCE: usize = 6;

/// Prints what can be run.
pub(crate) fn list() {
    for (name, what) in NAMES {
        println!("{name}  {what}");
    }
    println!("\ncrash points:");
    for point in POINTS {
        let places = match (point.fleet, point.sqlite) {
            (true, true) => "both",
            (true, false) => "fleet",
            (false, _) => "sqlite",
        };
        println!("  {:<24} {places:<7} {}", point.name, point.state);
    }
}

/// Runs one; how many of its runs failed.
pub(crate) async fn run(name: &'static str, seed: u64, short: bool) -> Result<usize> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for (number, (fleet, crash)) in crashes(seed, short).into_iter().enumerate() {
        let gate = Arc::clone(&gate);
        runs.spawn(async move {
            let _turn = gate.acquire_owned().await?;
            let folder = tempfile::tempdir()?;
            let place = if fleet {
                tokio::task::spawn_blocking(move || Place::fleet(&format!("f02-{seed:x}-{number}"))).await?
            } else {
                Place::sqlite(folder.path())
            };
            let times = crash.run(&place, folder.path()).await;
            let verdict = judged(folder.path()).await?;
            Ok::<_, anyhow::Error>(line(name, &place, &crash, times, verdict))
        });
    }
    let mut failed = 0;
    while let Some(line) = runs.join_next().await {
        let (line, passed) = line??;
        println!("{line}");
        failed += usize::from(!passed);
    }
    Ok(failed)
}

/// What F02 does: each point on each back end, with jobs of every kind; and, unless it is to be short, with
/// those of each kind alone, at its first and third time.
fn crashes(seed: u64, short: bool) -> Vec<(bool, Crash)> {
    let mut crashes = Vec::new();
    for fleet in [false, true] {
        for point in POINTS
            .iter()
            .filter(|point| if fleet { point.fleet } else { point.sqlite })
        {
            let mut add = |at, kinds: &[Kind]| {
                let kinds = kinds.to_vec();
                let seed = seed.wrapping_add(crashes.len() as u64);
                crashes.push((
                    fleet,
                    Crash {
                        point: *point,
                        at,
                        kinds,
                        seed,
                    },
                ));
            };
            add(2, &Kind::ALL);
            if !short {
                for kind in Kind::ALL {
                    add(1, &[kind]);
                    add(3, &[kind]);
                }
            }
        }
    }
    crashes
}

/// What the checker says, a process of its own.
async fn judged(folder: &Path) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .arg("check")
        .arg(folder)
        .output()
        .await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the checker: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The line of one run, and whether it passed.
fn line(name: &str, place: &Place, crash: &Crash, times: Result<Value>, verdict: Value) -> (Value, bool) {
    let mut line = json!({
        "scenario": name,
        "place": place.name(),
        "point": crash.point.name,
        "at": crash.at,
        "kinds": crash.kinds,
        "seed": crash.seed,
    });
    let passed = times.is_ok() && verdict["wrong"].as_array().is_some_and(Vec::is_empty);
    let times = times.unwrap_or_else(|error| json!({ "void": format!("{error:#}") }));
    for facts in [times, verdict, json!({ "passed": passed })] {
        if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
            line.extend(facts);
        }
    }
    (line, passed)
}
