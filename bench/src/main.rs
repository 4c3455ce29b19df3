//! Millhand's benches: each figure beside a raw loop in the same run (`docs/benchmarks.md`).

mod executors;
mod figures;
mod fleet;
mod ladder;
mod machine;
mod millhand;
mod noop;
mod options;
mod publishers;
mod quorum;
mod report;
mod running;
mod servers;
mod sqlite;
mod stopwatch;

use std::io::Write;

use anyhow::Result;

use self::options::{Options, USAGE};

fn main() -> Result<()> {
    if executors::is_echo() {
        return executors::echo();
    }
    let mut out = std::io::stdout();
    let Some(options) = Options::of(std::env::args().skip(1))? else {
        writeln!(out, "{USAGE}")?;
        return Ok(());
    };
    let mut runtime = if options.bench == "executors" {
        // As a worker's loop runs.
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let report = runtime.enable_all().build()?.block_on(async {
        match options.bench.as_str() {
            "executors" => executors::run(&options).await,
            "fleet" => fleet::run(&options).await,
            "ladder" => ladder::run(&options).await,
            _ => sqlite::run(&options).await,
        }
    })?;
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(())
}
