//! Millhand's benches: each figure beside a raw loop in the same run (`docs/benchmarks.md`).

mod figures;
mod machine;
mod raw;
mod sqlite;

use std::io::Write;

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "millhand-bench sqlite [--jobs N] [--rounds N] [--pack N] [--trips N] [--idle SECONDS] [--dir DIR] [--json]

  --jobs     jobs of each enqueue and drain (20000)
  --rounds   pairs of raw and Millhand (7)
  --pack     jobs per parcel (1); the goals are for 1
  --trips    round trips (2000)
  --idle     seconds of idling (20)
  --dir      where the files are made (the folder for temporary files)
  --json     the same as JSON";

fn options(mut args: impl Iterator<Item = String>) -> Result<(sqlite::Options, bool)> {
    let mut options = sqlite::Options::default();
    let mut json = false;
    match args.next().as_deref() {
        Some("sqlite") => {}
        Some(other) => bail!("there is no bench {other}\n\n{USAGE}"),
        None => bail!("{USAGE}"),
    }
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        let number = |text: String| -> Result<usize> {
            text.parse()
                .ok()
                .filter(|n| *n > 0)
                .with_context(|| format!("{flag}: {text} is no positive number"))
        };
        match flag.as_str() {
            "--jobs" => options.jobs = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--pack" => options.pack = number(value()?)?,
            "--trips" => options.trips = number(value()?)?,
            "--idle" => options.idle = number(value()?)?,
            "--dir" => options.dir = value()?.into(),
            "--json" => json = true,
            _ => bail!("there is no option {flag}\n\n{USAGE}"),
        }
    }
    Ok((options, json))
}

fn main() -> Result<()> {
    let (options, json) = options(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(sqlite::run(&options))?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(())
}
