//! From measurements to figures.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::machine::Machine;

/// One measured run of many jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Many values as three.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
        }
    }
}

/// A raw loop and Millhand, in pairs.
#[derive(Debug, Serialize)]
pub(crate) struct Pairs {
    pub(crate) what: &'static str,
    /// Jobs per second.
    pub(crate) raw: Spread,
    pub(crate) millhand: Spread,
    /// Microseconds of CPU time per job, all threads.
    pub(crate) raw_cpu: Spread,
    pub(crate) millhand_cpu: Spread,
    /// Millhand's jobs per second divided by the raw loop's beside it.
    pub(crate) ratio: Spread,
    pub(crate) goal: f64,
    pub(crate) reached: bool,
}

impl Pairs {
    pub(crate) fn of(what: &'static str, jobs: f64, goal: f64, pairs: &[(Sample, Sample)]) -> Self {
        let rate = |sample: &Sample| jobs / sample.wall.as_secs_f64();
        let cpu = |sample: &Sample| sample.cpu.as_secs_f64() * 1e6 / jobs;
        let ratio = Spread::of(pairs.iter().map(|(raw, ours)| rate(ours) / rate(raw)));
        Self {
            what,
            raw: Spread::of(pairs.iter().map(|p| rate(&p.0))),
            millhand: Spread::of(pairs.iter().map(|p| rate(&p.1))),
            raw_cpu: Spread::of(pairs.iter().map(|p| cpu(&p.0))),
            millhand_cpu: Spread::of(pairs.iter().map(|p| cpu(&p.1))),
            ratio,
            goal,
            reached: ratio.median >= goal,
        }
    }
}

/// Times of single things, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) what: &'static str,
    pub(crate) count: usize,
    pub(crate) p50: u128,
    pub(crate) p95: u128,
    pub(crate) p99: u128,
}

impl Times {
    pub(crate) fn of(what: &'static str, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_micros();
        Self {
            what,
            count: times.len(),
            p50: at(50),
            p95: at(95),
            p99: at(99),
        }
    }
}

/// CPU time of a worker that waits.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    /// Percent of one core.
    pub(crate) percent: f64,
    pub(crate) goal: f64,
    pub(crate) reached: bool,
}

/// All of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) jobs: usize,
    pub(crate) rounds: usize,
    pub(crate) pack: usize,
    pub(crate) argument_bytes: usize,
    pub(crate) insert_batch: usize,
    pub(crate) claim_batch: usize,
    pub(crate) pairs: Vec<Pairs>,
    pub(crate) times: Vec<Times>,
    pub(crate) idle: Idle,
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

impl Report {
    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        for line in self.machine.lines() {
            writeln!(out, "{line}")?;
        }
        writeln!(
            out,
            "{} jobs with {} B of arguments, {} per parcel; {} pairs, raw and Millhand in turn; raw batches: {} inserts, {} claims\n",
            self.jobs, self.argument_bytes, self.pack, self.rounds, self.insert_batch, self.claim_batch
        )?;
        writeln!(
            out,
            "{:<9} {:>10} {:>12} {:>20} {:>11} {:>12}   goal",
            "", "raw, 1/s", "millhand, 1/s", "ratio (min to max)", "raw CPU, µs", "our CPU, µs"
        )?;
        for row in &self.pairs {
            writeln!(
                out,
                "{:<9} {:>10.0} {:>13.0} {:>20} {:>11.1} {:>12.1}   ≥ {}: {}",
                row.what,
                row.raw.median,
                row.millhand.median,
                format!("{:.2} ({:.2} to {:.2})", row.ratio.median, row.ratio.min, row.ratio.max),
                row.raw_cpu.median,
                row.millhand_cpu.median,
                row.goal,
                verdict(row.reached)
            )?;
        }
        writeln!(
            out,
            "\n{:<42} {:>7} {:>8} {:>8} {:>8}",
            "one at a time, µs", "count", "p50", "p95", "p99"
        )?;
        for row in &self.times {
            writeln!(
                out,
                "{:<42} {:>7} {:>8} {:>8} {:>8}",
                row.what, row.count, row.p50, row.p95, row.p99
            )?;
        }
        let idle = &self.idle;
        writeln!(
            out,
            "\nidle worker: {:.2} % of a core in {:.0} s; goal ≤ {} %: {}",
            idle.percent,
            idle.seconds,
            idle.goal,
            verdict(idle.reached)
        )?;
        Ok(())
    }
}
