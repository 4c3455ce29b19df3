//! The scenarios by name, and their runs, several at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use millhand_broker::crash::POINTS;
use millhand_servers::Servers;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use crate::crash_points::Crash;
use crate::jobs::Kind;
use crate::place::{Place, servers};
use crate::scene::Scene;
use crate::{kills, load, stores};

/// Every scenario, with what is done.
pub(crate) const NAMES: &[(&str, &str)] = &[
    ("F01", "workers are killed and replaced while jobs run"),
    (
        "F02",
        "a worker, or a producer, is killed at every step of a job's path",
    ),
    ("F03", "a worker stands still for longer than its lease, and goes on"),
    ("F33", "Redis loses all its keys while jobs run"),
];

/// Jobs of one crash.
pub(crate) const JOBS: u64 = 25;

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

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Sqlite,
    Fleet,
    /// A fleet that nobody else uses.
    OwnFleet,
}

/// What is done in a run.
#[derive(Clone, Debug)]
enum Plan {
    Crash(Crash),
    Kills(usize),
    Freeze(Duration),
    Flushes(usize),
}

impl Plan {
    fn in_words(&self) -> String {
        match self {
            Self::Crash(crash) => format!("{}:{}", crash.point.name, crash.at),
            Self::Kills(kills) => format!("{kills} kills"),
            Self::Freeze(time) => format!("frozen for {time:?}"),
            Self::Flushes(flushes) => format!("{flushes} flushes"),
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
struct Run {
    scenario: &'static str,
    place: Where,
    plan: Plan,
    jobs: u64,
    kinds: Vec<Kind>,
    seed: u64,
}

/// The runs of a scenario.
fn runs(scenario: &'static str, seed: u64, short: bool) -> Vec<Run> {
    use Where::{Fleet, OwnFleet, Sqlite};
    let mut runs: Vec<Run> = Vec::new();
    let mut add = |place, plan, jobs, kinds: &[Kind]| {
        let seed = seed.wrapping_add(runs.len() as u64);
        let kinds = kinds.to_vec();
        runs.push(Run {
            scenario,
            place,
            plan,
            jobs,
            kinds,
            seed,
        });
    };
    match scenario {
        "F01" => {
            let kills = if short { 3 } else { 20 };
            for place in [Sqlite, Fleet] {
                add(place, Plan::Kills(kills), 200 * kills as u64, &Kind::ALL);
            }
        }
        "F02" => {
            for place in [Sqlite, Fleet] {
                let there = POINTS
                    .iter()
                    .filter(|point| if place == Fleet { point.fleet } else { point.sqlite });
                for point in there {
                    let crash = |at, kinds: &[Kind]| {
                        Plan::Crash(Crash {
                            point: *point,
                            at,
                            kinds: kinds.to_vec(),
                        })
                    };
                    add(place, crash(2, &Kind::ALL), JOBS, &Kind::ALL);
                    for kind in Kind::ALL.iter().filter(|_| !short) {
                        for at in [1, 3] {
                            add(place, crash(at, &[*kind]), JOBS, &[*kind]);
                        }
                    }
                }
            }
        }
        "F03" => {
            // RabbitMQ gives its jobs to others after two missed heartbeats.
            let frozen = Duration::from_secs(if short { 20 } else { 180 });
            for place in [Sqlite, Fleet] {
                add(place, Plan::Freeze(frozen), 200, &Kind::ALL);
            }
        }
        _ => add(OwnFleet, Plan::Flushes(if short { 2 } else { 10 }), 1000, &Kind::ALL),
    }
    runs
}

/// Runs one; how many of its runs failed.
pub(crate) async fn run(name: &'static str, seed: u64, short: bool) -> Result<usize> {
    let (gate, shared) = (
        Arc::new(Semaphore::new(AT_ONCE)),
        Arc::<OnceCell<Arc<Servers>>>::default(),
    );
    let mut under_way = JoinSet::new();
    for (number, run) in runs(name, seed, short).into_iter().enumerate() {
        let (gate, shared) = (Arc::clone(&gate), Arc::clone(&shared));
        under_way.spawn(async move {
            let _turn = gate.acquire_owned().await?;
            let folder = tempfile::tempdir()?;
            let start = || tokio::task::spawn_blocking(servers);
            let place = match run.place {
                Where::Sqlite => Place::sqlite(folder.path()),
                Where::Fleet => {
                    let servers = shared.get_or_try_init(start).await?;
                    Place::fleet(&format!("f-{seed:x}-{number}"), Arc::clone(servers))
                }
                Where::OwnFleet => Place::fleet("alone", start().await?),
            };
            let times = one(&run, place, folder.path()).await;
            let verdict = judged(folder.path()).await?;
            Ok::<_, anyhow::Error>(line(&run, times, verdict))
        });
    }
    let mut failed = 0;
    while let Some(line) = under_way.join_next().await {
        let (line, passed) = line??;
        println!("{line}");
        failed += usize::from(!passed);
    }
    Ok(failed)
}

async fn one(run: &Run, place: Place, folder: &Path) -> Result<Value> {
    let jobs = load::jobs(run.jobs, &run.kinds, run.seed);
    let forgets = matches!(run.plan, Plan::Flushes(_));
    let scene = Scene::new(place, folder, jobs, forgets)?;
    match &run.plan {
        Plan::Crash(crash) => crash.run(&scene, run.seed).await,
        Plan::Kills(kills) => kills::kills(&scene, *kills).await,
        Plan::Freeze(time) => kills::freeze(&scene, *time).await,
        Plan::Flushes(flushes) => stores::flushes(&scene, *flushes).await,
    }
}

/// What the checker says, a process of its own.
async fn judged(folder: &Path) -> Result<Value> {
    let checker = Command::new(std::env::current_exe()?).arg("check").arg(folder).output();
    let output = checker.await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the checker: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The line of one run, and whether it passed.
fn line(run: &Run, times: Result<Value>, verdict: Value) -> (Value, bool) {
    let mut line = json!({
        "scenario": run.scenario,
        "place": if run.place == Where::Sqlite { "sqlite" } else { "fleet" },
        "plan": run.plan.in_words(),
        "kinds": run.kinds,
        "seed": run.seed,
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
