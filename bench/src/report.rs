//! What a bench found, as a table for people.

use std::io::{Result, Write};

use serde::Serialize;

use crate::figures::{Baseline, Beside, Goal, Number, Pairs, Spread, Times};
use crate::machine::Machine;

/// All of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// What was measured with.
    pub(crate) settings: Vec<(&'static str, usize)>,
    pub(crate) pairs: Vec<Pairs>,
    pub(crate) beside: Vec<Beside>,
    pub(crate) times: Vec<Times>,
    pub(crate) numbers: Vec<Number>,
    pub(crate) baselines: Vec<Baseline>,
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

/// The goal and whether it was reached; nothing where there is none.
fn goal(goal: Option<String>, reached: Option<bool>) -> String {
    goal.zip(reached)
        .map(|(goal, reached)| format!("{goal}: {}", verdict(reached)))
        .unwrap_or_default()
}

impl Report {
    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        for line in self.machine.lines() {
            writeln!(out, "{line}")?;
        }
        let settings: Vec<_> = self.settings.iter().map(|(what, n)| format!("{what} {n}")).collect();
        writeln!(out, "{}", settings.join(", "))?;
        if !self.pairs.is_empty() {
            pairs(&self.pairs, out)?;
        }
        if !self.beside.is_empty() {
            beside(&self.beside, out)?;
        }
        if !self.times.is_empty() {
            times(&self.times, out)?;
        }
        writeln!(out)?;
        for row in &self.numbers {
            let wanted = row.goal.map(|goal| match goal {
                Goal::AtMost(goal) => format!("≤ {goal}"),
                Goal::AtLeast(goal) => format!("≥ {goal}"),
            });
            let goal = goal(wanted, row.reached);
            writeln!(out, "{:<58} {:>12.2} {:<12} {goal}", row.what, row.value, row.unit)?;
        }
        for row in &self.baselines {
            let verdict = if row.void {
                "VOID: the raw figure is weak, and so is every ratio to it"
            } else {
                "sound"
            };
            let what = format!("{}, of that on a quiet machine", row.what);
            writeln!(out, "{what:<58} {:>12.0} %            {verdict}", row.percent)?;
        }
        Ok(())
    }
}

fn pairs(rows: &[Pairs], out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "\n{:<22} {:>9} {:>14} {:>22} {:>12} {:>12}   goal",
        "raw and Millhand", "raw, 1/s", "millhand, 1/s", "ratio (min to max)", "raw CPU, µs", "our CPU, µs"
    )?;
    for row in rows {
        let Spread { median, min, max } = row.ratio;
        writeln!(
            out,
            "{:<22} {:>9.0} {:>14.0} {:>22} {:>12.1} {:>12.1}   {}",
            row.what,
            row.raw.median,
            row.millhand.median,
            format!("{median:.2} ({min:.2} to {max:.2})"),
            row.raw_cpu.median,
            row.millhand_cpu.median,
            goal(row.goal.map(|goal| format!("≥ {goal}")), row.reached)
        )?;
    }
    Ok(())
}

fn beside(rows: &[Beside], out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "\n{:<42} {:<38} {:>10} {:>10} {:>5} {:>24}   goal",
        "Millhand", "beside", "millhand", "bare", "", "ratio (min to max)"
    )?;
    for row in rows {
        let Spread { median, min, max } = row.ratio;
        writeln!(
            out,
            "{:<42} {:<38} {:>10.2} {:>10.2} {:>5} {:>24}   {}",
            row.what,
            row.beside,
            row.ours.median,
            row.bare.median,
            row.unit,
            format!("{median:.2} ({min:.2} to {max:.2})"),
            goal(row.goal.clone(), row.reached)
        )?;
    }
    Ok(())
}

fn times(rows: &[Times], out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "\n{:<58} {:>7} {:>10} {:>10} {:>10} {:>10}",
        "times, µs", "count", "p50", "p95", "p99", "max"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:<58} {:>7} {:>10} {:>10} {:>10} {:>10}",
            row.what, row.count, row.p50, row.p95, row.p99, row.max
        )?;
    }
    Ok(())
}
