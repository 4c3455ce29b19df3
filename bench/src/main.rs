//! Millhand's benches: each figure beside a raw loop in the same run (`docs/benchmarks.md`).

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
    let mut out = std::io::stdout().lock();
    let Some(options) = Options::of(std::env::args().skip(1))? else {
        writeln!(out, "{USAGE}")?;
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match options.bench.as_str() {
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
