//! The demo in words: the table for people, the document for programs.

use std::fmt::Write as _;
use std::time::Duration;

use millhand_proto::Timestamp;
use serde_json::{Value, json};

use super::Told;
use super::figures::{self, Phases, Spread};
use crate::output::{Ink, Style, clean, grouped, plural};
use crate::times;

/// Examples that are named.
const NAMED: usize = 5;

fn path(bytes: &[u8]) -> String {
    clean(
        &String::from_utf8_lossy(if bytes.is_empty() { b"." } else { bytes }),
        false,
    )
}

/// A percentile for a table; `—` when there are too few to say.
pub(super) fn percentile(spread: &Spread, thousandths: u64, ascii: bool) -> String {
    let none = if ascii { "-" } else { "—" };
    spread
        .percentile(thousandths)
        .map_or_else(|| none.to_owned(), times::compact)
}

pub(super) fn table(told: &Told<'_>, style: Style, written: bool) -> String {
    let claim = &told.ledger.claim;
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        let _ = writeln!(out, "  {name:<10}{text}");
    };
    let looked = told.looked;
    row("folder", &clean(&told.root.display().to_string(), false));
    row(
        "files",
        &format!(
            "{} in {}",
            grouped(claim.files.len() as u64),
            plural(looked.folders, "folder")
        ),
    );
    let passed = [
        (looked.links, "symbolic link"),
        (looked.special, "pipe, socket or device"),
        (looked.passed, "hidden or target folder"),
    ];
    let passed: Vec<_> = passed
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} × {what}", grouped(*n)))
        .collect();
    if !passed.is_empty() {
        row("", &format!("passed over: {}", passed.join(", ")));
    }
    for (at, (name, why)) in claim.unreadable.iter().take(NAMED).enumerate() {
        row(
            if at == 0 { "unreadable" } else { "" },
            &format!(" {}: {}", path(name), clean(why, false)),
        );
    }
    if claim.unreadable.len() > NAMED {
        row(
            "",
            &format!(" and {} more", grouped((claim.unreadable.len() - NAMED) as u64)),
        );
    }
    row(
        "bytes",
        &format!("{} ({})", grouped(claim.bytes), figures::bytes(claim.bytes)),
    );
    row("lines", &grouped(claim.lines));
    row(
        "words",
        &format!(
            "{}, {} different plain ones",
            grouped(claim.words),
            grouped(claim.plain.len() as u64)
        ),
    );
    for (at, line) in wrapped(&told.top).iter().enumerate() {
        row(if at == 0 { "top words" } else { "" }, line);
    }
    row(
        "entropy",
        &format!("{:.3} bits per byte", figures::entropy(&claim.histogram)),
    );
    row("digest", &figures::hex(&claim.digest));
    let ledger = told.ledger;
    let jobs = format!(
        "{} in {}",
        plural(ledger.jobs, "job"),
        plural(ledger.attempts, "attempt")
    );
    let rates = format!(
        "{} jobs/s, {}/s",
        figures::rate(ledger.jobs, told.took),
        figures::rate_bytes(claim.bytes as f64 / told.took.as_secs_f64().max(1e-6))
    );
    row("jobs", &format!("{jobs}, {} failed; {rates}", grouped(ledger.failed)));
    for failure in &ledger.failures {
        row("", &style.paint(Ink::Red, &clean(failure, false)));
    }
    out.push('\n');
    out.push_str(&phases(told, style));
    out.push('\n');
    out.push_str(&proof(told, style));
    if written {
        let _ = writeln!(
            out,
            "  {:<10}{}",
            "report",
            clean(&told.report.display().to_string(), false)
        );
    }
    out
}

/// The top words in lines that fit.
fn wrapped(top: &[(String, u64)]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (word, count) in top {
        let next = format!("{} {}", clean(word, false), grouped(*count));
        match lines
            .last_mut()
            .filter(|l| l.chars().count() + next.chars().count() < 64)
        {
            Some(line) => *line = format!("{line}, {next}"),
            None => lines.push(next),
        }
    }
    lines
}

/// Where the time went, from the receipts.
fn phases(told: &Told<'_>, style: Style) -> String {
    let ledger = told.ledger;
    let mut out = String::new();
    let head = |name: &str, all: &Phases| format!("{name}, {} jobs", grouped(all.whole.count()));
    let (read, count) = (
        head("demo.read (async)", &ledger.read),
        head("demo.count (process)", &ledger.count),
    );
    let _ = writeln!(out, "  {:<10}{read:>30}  {count:>28}", "");
    let titles = ["p50", "p95", "p99"].map(|t| format!("{t:>10}")).concat();
    let _ = writeln!(
        out,
        "  {}",
        style.paint(Ink::Bold, &format!("{:<10}{titles}{titles}", "phase"))
    );
    for ((name, read), (_, count)) in ledger.read.rows().zip(ledger.count.rows()) {
        let _ = write!(out, "  {name:<10}");
        for spread in [read, count] {
            for thousandths in [500, 950, 990] {
                let _ = write!(out, "{:>10}", percentile(spread, thousandths, style.ascii));
            }
        }
        out.push('\n');
    }
    out
}

fn proof(told: &Told<'_>, style: Style) -> String {
    let verdict = told.verdict;
    let (yes, no) = if style.ascii { ("+", "x") } else { ("✓", "✗") };
    let mut out = String::new();
    let times = format!(
        "{} by jobs on {}, {} by one thread",
        times::human(told.whole()),
        match told.slots.processes {
            1 => "1 process".to_owned(),
            count => format!("{count} processes"),
        },
        times::human(verdict.took)
    );
    let _ = writeln!(out, "  {:<10}{times}", "time");
    if let Some(why) = told.why_slower() {
        let _ = writeln!(out, "  {:<10}{why}", "");
    }
    if verdict.holds() {
        let what = if verdict.changed.is_empty() {
            "bytes, lines, words, each word's and byte's count, each digest are equal"
        } else {
            "bytes, lines, words and digests of each file are equal"
        };
        let line = format!("{yes} {}: {what}", plural(verdict.files, "file"));
        let _ = writeln!(out, "  {:<10}{}", "proof", style.paint(Ink::Green, &line));
    } else {
        let line = format!("{no} {}", plural(verdict.count as u64, "difference"));
        let _ = writeln!(out, "  {:<10}{}", "proof", style.paint(Ink::Red, &line));
        for difference in &verdict.differences {
            let _ = writeln!(out, "  {:<10}{}", "", clean(difference, false));
        }
        let more = verdict.count - verdict.differences.len();
        if more > 0 {
            let _ = writeln!(out, "  {:<10}and {} more", "", grouped(more as u64));
        }
    }
    if !verdict.changed.is_empty() {
        let changed = plural(verdict.changed.len() as u64, "file");
        let _ = writeln!(
            out,
            "  {:<10}{changed} changed, came or went meanwhile and prove nothing; neither do the",
            ""
        );
        let _ = writeln!(out, "  {:<10}counts of words and bytes over all files:", "");
        for path in verdict.changed.iter().take(NAMED) {
            let _ = writeln!(out, "  {:<10}{}", "", clean(&path.display().to_string(), false));
        }
        if verdict.changed.len() > NAMED {
            let _ = writeln!(
                out,
                "  {:<10}and {} more",
                "",
                grouped((verdict.changed.len() - NAMED) as u64)
            );
        }
    }
    out
}

/// The document for programs.
pub(super) fn document(told: &Told<'_>) -> Value {
    let (ledger, looked, verdict) = (told.ledger, told.looked, told.verdict);
    let claim = &ledger.claim;
    let seconds = |span: Duration| times::seconds(span);
    let mut phases = Vec::new();
    for (task, executor, all) in [
        ("demo.read", "async", &ledger.read),
        ("demo.count", "process", &ledger.count),
    ] {
        for (phase, spread) in all.rows() {
            let at = |thousandths| spread.percentile(thousandths).map(seconds);
            phases.push(json!({
                "task": task, "executor": executor, "phase": phase, "count": spread.count(),
                "p50_seconds": at(500), "p95_seconds": at(950), "p99_seconds": at(990),
            }));
        }
    }
    let micros = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    let unreadable: Vec<Value> = claim
        .unreadable
        .iter()
        .take(100)
        .map(|(name, why)| json!({ "path": String::from_utf8_lossy(name), "reason": why }))
        .collect();
    let changed: Vec<_> = verdict.changed.iter().take(100).map(|p| p.to_string_lossy()).collect();
    let top: Vec<Value> = told
        .top
        .iter()
        .map(|(word, count)| json!({ "word": word, "count": count }))
        .collect();
    json!({
        "schema": "millhand.demo/1",
        "as_of": times::rfc3339(Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))),
        "dir": told.root.to_string_lossy(),
        "report": told.report.to_string_lossy(),
        "files": claim.files.len(),
        "folders": looked.folders,
        "links": looked.links,
        "special": looked.special,
        "passed_folders": looked.passed,
        "unreadable": { "count": claim.unreadable.len(), "items": unreadable },
        "total_bytes": claim.bytes,
        "lines": claim.lines,
        "words": claim.words,
        "different_words": claim.plain.len(),
        "top_words": top,
        "entropy_bits": figures::entropy(&claim.histogram),
        "digest": figures::hex(&claim.digest),
        "jobs": ledger.jobs,
        "attempts": ledger.attempts,
        "failed": ledger.failed,
        "failures": ledger.failures,
        "processes": told.slots.processes,
        "walk_seconds": seconds(looked.took),
        "jobs_seconds": seconds(told.took),
        "jobs_per_second": ledger.jobs as f64 / told.took.as_secs_f64().max(1e-6),
        "phases": phases,
        "proof": {
            "holds": verdict.holds(),
            "seconds": seconds(verdict.took),
            "files": verdict.files,
            "totals_compared": verdict.changed.is_empty(),
            "differences": { "count": verdict.count, "items": verdict.differences },
            "changed": { "count": verdict.changed.len(), "items": changed },
        },
    })
}
