//! Millhand's faults: what is promised, attacked and judged from outside (`docs/guarantees.md`).
//!
//! `millhand-faults list`, `run F02 [--seed N]`, `all`: one line of JSON for each run.

mod check;
mod deeds;
mod diary;
mod jobs;
mod load;
mod place;
mod process;
mod scenario;
mod scenarios;
mod scene;
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use millhand_worker::{Slots, Worker, shutdown_signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::load::Pace;
use crate::place::Place;
use crate::process::Setup;
use crate::scenario::{Options, Scenario, Where};

const USAGE: &str = "millhand-faults list | run NAME… [OPTIONS] | all [OPTIONS] | table

Starts RabbitMQ and Redis of its own on the loopback, does harm to them and to
workers of its own, and judges what became of the jobs by files that no fault
touches. One line of JSON for each run; the exit code is 1 when one failed.

  list         the scenarios, and the crash points
  run NAME…    these scenarios
  all          all of them
  table        lines of runs, from the standard input, as a table
  --seed N     what is drawn follows from it; a run prints its own
  --short      a part of each, for every day
  --on PLACE   only the runs on sqlite, or those on a fleet
  --seconds S  how long a load lasts, or a freeze, where it is no number of jobs

MILLHAND_FAULTS_KEEP=FOLDER keeps there what a run that failed has written.";

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match words[..] {
        ["check", folder] => {
            println!("{}", check::check(Path::new(folder))?);
            Ok(ExitCode::SUCCESS)
        }
        ["worker", broker, store, folder, setup] => {
            process::end_with_parent();
            log();
            let place = Place::named(broker.to_owned(), store.to_owned());
            runtime.block_on(worker(&place, Path::new(folder), serde_json::from_str(setup)?))?;
            Ok(ExitCode::SUCCESS)
        }
        ["produce", broker, store, folder, count, kinds, seed] => {
            process::end_with_parent();
            log();
            let place = Place::named(broker.to_owned(), store.to_owned());
            let jobs = load::jobs(count.parse()?, &serde_json::from_str::<Vec<_>>(kinds)?, seed.parse()?);
            runtime.block_on(load::produce(&place, Path::new(folder), &jobs, Pace::default()))?;
            Ok(ExitCode::SUCCESS)
        }
        ["list"] => {
            scenarios::list();
            Ok(ExitCode::SUCCESS)
        }
        ["table"] => {
            let table = table::table(&std::io::read_to_string(std::io::stdin())?)?;
            print!("{}", table.context("no line of a run came from the standard input")?);
            Ok(ExitCode::SUCCESS)
        }
        [.., "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        [what @ ("run" | "all"), ref words @ ..] => match asked(what == "all", words) {
            Ok((chosen, options)) => runtime.block_on(run(chosen, options)),
            Err(wrong) => {
                eprintln!("{wrong}; see millhand-faults --help");
                Ok(ExitCode::from(2))
            }
        },
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

/// Everything but the bytes on the wire: what must not be seen is looked for in it.
fn log() {
    let levels = Targets::new()
        .with_default(LevelFilter::DEBUG)
        .with_target("millhand", LevelFilter::TRACE);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(levels).init();
}

async fn worker(place: &Place, folder: &Path, setup: Setup) -> Result<()> {
    let slots = Slots {
        asyncs: setup.asyncs,
        threads: setup.threads,
        processes: setup.processes,
    };
    let worker = Worker::new(place.open()?)
        .queues([load::QUEUE])
        .slots(slots)
        .grace(Duration::from_millis(setup.grace));
    Ok(jobs::on(worker, folder, &setup)?.run(shutdown_signal()).await?)
}

async fn run(chosen: Vec<&Scenario>, options: Options) -> Result<ExitCode> {
    let mut failed = 0;
    for scenario in chosen {
        failed += scenario.run(options).await?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is to be run, and how; or what is wrong with the words.
fn asked(all: bool, words: &[&str]) -> Result<(Vec<&'static Scenario>, Options), String> {
    let known = scenarios::all();
    let mut chosen = Vec::new();
    let mut options = Options {
        seed: uuid::Uuid::new_v4().as_u64_pair().0 >> 16,
        ..Options::default()
    };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--seed" => options.seed = number(word, rest.next())?,
            "--seconds" => options.seconds = Some(number(word, rest.next())?),
            "--short" => options.short = true,
            "--on" => {
                options.on = Some(match rest.next() {
                    Some(&"sqlite") => Where::Sqlite,
                    Some(&"fleet") => Where::Fleet,
                    _ => return Err(format!("{word} needs sqlite or fleet")),
                });
            }
            name if name.starts_with('-') => return Err(format!("there is no option {name}")),
            name if all => return Err(format!("all takes no names, and {name} is one")),
            name => {
                let found = known.iter().find(|known| known.name == name);
                chosen.push(*found.ok_or_else(|| format!("there is no scenario {name}; `list` names them"))?);
            }
        }
    }
    let there = |scenario: &&Scenario| !scenario.places(options).is_empty();
    if all {
        return Ok((known.into_iter().filter(there).collect(), options));
    }
    if chosen.is_empty() {
        return Err("run which scenario? `list` names them".into());
    }
    match chosen.iter().find(|scenario| !there(scenario)) {
        Some(scenario) => {
            let on = options.on.map_or("any place", Where::name);
            Err(format!("{} has no run on {on}", scenario.name))
        }
        None => Ok((chosen, options)),
    }
}

fn number(option: &str, word: Option<&&str>) -> Result<u64, String> {
    let word = word.ok_or_else(|| format!("{option} needs a number"))?;
    word.parse().map_err(|_| format!("{option} {word} is no number"))
}
