//! Millhand's faults: what is promised, attacked and judged from outside (`docs/guarantees.md`).
//!
//! `millhand-faults list`, `run F02 [--seed N]`, `all`: one line of JSON for each run.

mod check;
mod crash_points;
mod diary;
mod jobs;
mod kills;
mod load;
mod place;
mod process;
mod scenarios;
mod scene;
mod stores;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use millhand_worker::{Slots, Worker, shutdown_signal};

use crate::place::Place;

const USAGE: &str = "millhand-faults list | run NAME… [--seed N] [--short] | all [--seed N] [--short]

Starts RabbitMQ and Redis of its own on the loopback, does harm to them and to
workers of its own, and judges what became of the jobs by files that no fault
touches. One line of JSON for each run; the exit code is 1 when one failed.

  list         the scenarios, and the crash points
  run NAME…    these scenarios
  all          all of them
  --seed N     what is drawn follows from it; a run prints its own
  --short      a part of each, for every day";

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
        ["worker", broker, store, folder] => {
            process::end_with_parent();
            let place = Place::named(broker.to_owned(), store.to_owned());
            runtime.block_on(worker(&place, Path::new(folder)))?;
            Ok(ExitCode::SUCCESS)
        }
        ["produce", broker, store, folder, seed, kinds] => {
            process::end_with_parent();
            let place = Place::named(broker.to_owned(), store.to_owned());
            let jobs = load::jobs(scenarios::JOBS, &serde_json::from_str::<Vec<_>>(kinds)?, seed.parse()?);
            runtime.block_on(load::produce(&place, Path::new(folder), &jobs))?;
            Ok(ExitCode::SUCCESS)
        }
        ["list"] => {
            scenarios::list();
            Ok(ExitCode::SUCCESS)
        }
        ["run" | "all", ..] => runtime.block_on(run(&words)),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

async fn worker(place: &Place, folder: &Path) -> Result<()> {
    let worker = Worker::new(place.open()?).queues([load::QUEUE]).slots(Slots {
        asyncs: 4,
        threads: 1,
        processes: 1,
    });
    Ok(jobs::on(worker, folder)?.run(shutdown_signal()).await?)
}

async fn run(words: &[&str]) -> Result<ExitCode> {
    let (mut names, mut seed, mut short) = (Vec::new(), None, false);
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        match *word {
            "--seed" => {
                let number = rest.next().context("--seed needs a number")?;
                seed = Some(
                    number
                        .parse()
                        .with_context(|| format!("--seed {number} is no number"))?,
                );
            }
            "--short" => short = true,
            name if name.starts_with('-') => bail!("there is no option {name}\n\n{USAGE}"),
            name => names.push(name),
        }
    }
    let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
    let known = || scenarios::NAMES.iter().map(|(name, _)| *name);
    let chosen: Vec<&'static str> = if words[0] == "all" {
        known().collect()
    } else {
        let find = |name: &&str| {
            let found = known().find(|known| known == name);
            found.with_context(|| format!("there is no scenario {name}; `list` names them"))
        };
        names.iter().map(find).collect::<Result<_>>()?
    };
    if chosen.is_empty() {
        bail!("run what?\n\n{USAGE}");
    }
    let mut failed = 0;
    for name in chosen {
        failed += scenarios::run(name, seed, short).await?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
