//! As people read it: many tasks one a line, one task phase by phase.

use std::fmt::Write as _;
use std::time::Duration;

use millhand_proto::{Count, Histogram, Measure, Numbers, Profile, Timestamp};

use super::{QUANTILES, TaskStats, shown};
use crate::output::{Align, Cell, Ink, Style, Table, bytes, grouped, plural};
use crate::times::{compact, human, rfc3339};

/// Cells of a bar of a phase, and of an overhead share.
const BAR: u32 = 30;
const SMALL_BAR: u32 = 10;

/// Percentiles as a table shows them.
fn spans(histogram: &Histogram) -> [String; 3] {
    QUANTILES.map(|q| histogram.quantile(q).map_or_else(|| "-".into(), compact))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Many tasks, one a line.
pub(crate) fn table(tasks: &[TaskStats], style: Style) -> String {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("TASK", Align::Left),
        ("ON", Align::Left),
        ("RUNS", right),
        ("OVERHEAD", right),
        ("", Align::Left),
        ("RUN P50", right),
        ("P95", right),
        ("P99", right),
        ("WAIT P50", right),
        ("P99", right),
        ("FAILED", right),
        ("CRASHED", right),
    ]);
    for task in tasks {
        let numbers = &task.numbers;
        let on: Vec<_> = task.executors().map(|(executor, _)| executor.as_str()).collect();
        let bar = task
            .overhead()
            .map(|share| style.bar(share, SMALL_BAR))
            .unwrap_or_default();
        let [run50, run95, run99] = spans(&numbers.run);
        let [wait50, _, wait99] = spans(&numbers.wait);
        table.row(vec![
            task.task.as_str().into(),
            if on.is_empty() { "-".into() } else { on.join(",").into() },
            grouped(numbers.run.count()).into(),
            task.overhead().map_or_else(|| "-".into(), percent).into(),
            Cell::painted(style.paint(Ink::Dim, &bar), &bar),
            run50.into(),
            run95.into(),
            run99.into(),
            wait50.into(),
            wait99.into(),
            grouped(shown(numbers, Count::Failed)).into(),
            grouped(shown(numbers, Count::Crashed)).into(),
        ]);
    }
    table.render(style)
}

/// One task, phase by phase.
pub(crate) fn one(task: &TaskStats, since: Timestamp, now: Timestamp, style: Style) -> String {
    let numbers = &task.numbers;
    let mut out = String::new();
    let on: Vec<_> = task
        .executors()
        .map(|(executor, n)| format!("{} on {executor}", grouped(n)))
        .collect();
    let on = if on.is_empty() { "0".into() } else { on.join(", ") };
    let span = human(now.since(since));
    let _ = writeln!(out, "{}", style.paint(Ink::Bold, &task.task));
    let _ = writeln!(out, "Runs since {} ({span}): {on}.", rfc3339(since));
    let _ = writeln!(out, "{}\n", ends(numbers));
    let mut table = Table::new(&[
        ("PHASE", Align::Left),
        ("P50", Align::Right),
        ("P95", Align::Right),
        ("P99", Align::Right),
        ("", Align::Left),
    ]);
    let phases = task.phases();
    let longest = phases
        .iter()
        .filter_map(|(_, h)| h.quantile(0.95))
        .max()
        .unwrap_or_default();
    for (name, histogram) in &phases {
        let ink = if *name == "run" { Ink::Blue } else { Ink::Dim };
        let mut row: Vec<Cell> = vec![(*name).into()];
        row.extend(spans(histogram).map(Cell::from));
        row.push(bar(histogram, longest, ink, style));
        table.row(row);
    }
    out += &table.render(style);
    if let Some(profile) = numbers.profile() {
        out += &shares(profile, style);
    }
    out
}

/// How attempts and jobs ended, in a sentence.
fn ends(numbers: &Numbers) -> String {
    let counts = Count::ALL.map(|what| (what, shown(numbers, what)));
    let said = |whats: &[Count]| {
        let counts = counts.iter().filter(|(what, n)| *n > 0 && whats.contains(what));
        counts
            .map(|(what, n)| format!("{} {}", grouped(*n), what.as_str()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let jobs = said(&[Count::Succeeded, Count::Dead, Count::Cancelled, Count::Expired]);
    let attempts = said(&[Count::Failed, Count::Crashed, Count::Retried, Count::Snoozed]);
    let jobs = if jobs.is_empty() { "none has ended" } else { &jobs };
    if attempts.is_empty() {
        format!("Jobs: {jobs}.")
    } else {
        format!("Jobs: {jobs}. Attempts: {attempts}.")
    }
}

/// A bar up to the 95th percentile, full up to the median.
fn bar(histogram: &Histogram, longest: Duration, ink: Ink, style: Style) -> Cell {
    let share = |q| {
        let span = histogram.quantile(q).unwrap_or_default().as_secs_f64();
        span / longest.as_secs_f64().max(f64::MIN_POSITIVE)
    };
    let full = style.bar(share(0.5), BAR);
    let whole = style.bar(share(0.95), BAR);
    let light = if style.ascii { "." } else { "░" };
    let rest = whole.chars().count().saturating_sub(full.chars().count());
    let rest = light.repeat(rest);
    let painted = style.paint(ink, &full) + &style.paint(Ink::Dim, &rest);
    Cell::painted(painted, &format!("{full}{rest}"))
}

/// What the phases come to, and what else was measured of the runs.
fn shares(profile: &Profile, style: Style) -> String {
    let mut out = String::new();
    let mut fact = |name: &str, text: String| {
        let _ = writeln!(out, "  {} {text}", style.paint(Ink::Dim, &format!("{name:<10}")));
    };
    if let Some(overhead) = profile.overhead() {
        let moved = human(profile.measure(Measure::Moved).quantile(0.5).unwrap_or_default());
        fact(
            "overhead",
            format!(
                "{}: moving a job took {moved} in the middle; queue and room are waits, not overhead",
                percent(overhead)
            ),
        );
    }
    if let Some(cpu) = profile.cpu_share() {
        fact("cpu", format!("{} of the run time", percent(cpu)));
    }
    let three = |what, say: fn(Duration) -> String| {
        let found = QUANTILES.map(|q| profile.measure(what).quantile(q).map(say));
        let [Some(p50), Some(p95), Some(p99)] = found else {
            return None;
        };
        Some(format!("{p50} p50, {p95} p95, {p99} p99"))
    };
    if let Some(blocked) = three(Measure::Blocked, human) {
        fact("blocked", format!("the loop {blocked}, at most at a time"));
    }
    if let Some(start) = three(Measure::Start, human) {
        let starts = plural(profile.measure(Measure::Start).count(), "run");
        fact("start", format!("{starts} waited for a child to start, {start}"));
    }
    // A histogram counts microseconds; here one stands for a byte.
    let size = |span: Duration| bytes(usize::try_from(span.as_micros()).unwrap_or(usize::MAX));
    if let Some(peak) = three(Measure::Peak, size) {
        fact("memory", format!("{peak}, at most"));
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW, ago};
    use crate::stats::fixture::{late, resize};

    const PLAIN: Style = Style {
        color: false,
        ascii: false,
        width: None,
    };

    #[test]
    fn many_tasks_one_a_line() {
        insta::assert_snapshot!(table(&[resize(), late()], PLAIN), @r#"
        TASK    ON       RUNS  OVERHEAD     RUN P50     P95     P99  WAIT P50    P99  FAILED  CRASHED
        resize  process   200     5.5 %  ▌   47.1ms  51.2ms  51.2ms     377ms  557ms       2        1
        late    -           0         -           -       -       -         -      -       0        0
        "#);
    }

    #[test]
    fn one_task_phase_by_phase() {
        insta::assert_snapshot!(one(&resize(), ago(4_000), NOW, PLAIN), @r#"
        resize
        Runs since 2031-02-03T02:58:26.789Z (1 h 06 min): 200 on process.
        Jobs: 200 succeeded. Attempts: 1 retried, 2 failed, 1 crashed.

        PHASE        P50     P95     P99
        enqueue    400µs   464µs   464µs
        queue      238ms   410ms   410ms  █████████████████▍░░░░░░░░░░░░
        fetch       84µs    84µs    84µs
        room       139ms   139ms   139ms  ██████████▎
        claim     1.34ms  1.60ms  1.60ms  ▏
        dispatch    58µs    58µs    58µs
        run       47.1ms  51.2ms  51.2ms  ███▌
        encode      12µs    12µs    12µs
        settle     928µs   928µs   928µs  ▏

          overhead   5.5 %: moving a job took 2.69 ms in the middle; queue and room are waits, not overhead
          cpu        87.3 % of the run time
          start      1 run waited for a child to start, 3.71 ms p50, 3.71 ms p95, 3.71 ms p99
          memory     84.0 MiB p50, 84.0 MiB p95, 84.0 MiB p99, at most
        "#);
        insta::assert_snapshot!(one(&late(), ago(4_000), NOW, PLAIN), @r#"
        late
        Runs since 2031-02-03T02:58:26.789Z (1 h 06 min): 0.
        Jobs: 1 expired.

        PHASE  P50  P95  P99
        run      -    -    -
        "#);
        let ascii = one(&resize(), ago(4_000), NOW, Style { ascii: true, ..PLAIN });
        assert!(ascii.replace('µ', "u").is_ascii(), "{ascii}");
        let narrow = one(
            &resize(),
            ago(4_000),
            NOW,
            Style {
                width: Some(40),
                ..PLAIN
            },
        );
        assert!(!narrow.contains('█') && narrow.contains("run"), "{narrow}");
    }
}
