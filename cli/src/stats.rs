//! How tasks ran: as text, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use millhand_proto::{Count, Executor, Histogram, Measure, Numbers, Profile, Tally, TaskName, Timestamp};
use serde::Serialize;

use crate::output::{Align, Cell, Ink, Style, Table, bytes, grouped, plural};
use crate::times::{compact, human, rfc3339, seconds};

/// Cells of a bar of a phase, and of an overhead share.
const BAR: u32 = 30;
const SMALL_BAR: u32 = 10;
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// One task's numbers of some time, of all queues that were asked for.
#[derive(Debug)]
pub(crate) struct TaskStats {
    task: String,
    numbers: Numbers,
}

impl TaskStats {
    pub(crate) fn of(task: &TaskName, tallies: &[Tally]) -> Self {
        let mut numbers = Numbers::default();
        for tally in tallies {
            numbers.merge(&tally.numbers);
        }
        let task = task.to_string();
        Self { task, numbers }
    }

    fn overhead(&self) -> Option<f64> {
        self.numbers.profile().and_then(Profile::overhead)
    }

    /// Runs by executor, where there were any.
    fn executors(&self) -> impl Iterator<Item = (Executor, u64)> + '_ {
        let runs = |executor| self.numbers.profile().map_or(0, |p| p.runs_on(executor));
        let runs = Executor::ALL
            .into_iter()
            .map(move |executor| (executor, runs(executor)));
        runs.filter(|(_, n)| *n > 0)
    }

    /// The phases of a receipt, with its settling, in the order they happen.
    fn phases(&self) -> Vec<(&'static str, &Histogram)> {
        let Some(profile) = self.numbers.profile() else {
            return vec![("run", &self.numbers.run)];
        };
        let of = |what: Measure| (what.as_str(), profile.measure(what));
        vec![
            of(Measure::Enqueue),
            of(Measure::Queue),
            of(Measure::Fetch),
            of(Measure::Room),
            of(Measure::Claim),
            of(Measure::Dispatch),
            ("run", &self.numbers.run),
            of(Measure::Encode),
            of(Measure::Settle),
        ]
    }
}

/// Percentiles as a table shows them.
fn spans(histogram: &Histogram) -> [String; 3] {
    QUANTILES.map(|q| histogram.quantile(q).map_or_else(|| "-".into(), compact))
}

/// A count as it is shown: a store counts crashed attempts among the failed too, here each is one of them.
fn shown(numbers: &Numbers, what: Count) -> u64 {
    let crashed = if what == Count::Failed {
        numbers.get(Count::Crashed)
    } else {
        0
    };
    numbers.get(what).saturating_sub(crashed)
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

#[derive(Debug, Serialize)]
pub(crate) struct StatsList {
    schema: &'static str,
    as_of: String,
    since: String,
    pub(crate) items: Vec<TaskJson>,
}

impl StatsList {
    pub(crate) fn new(tasks: &[TaskStats], since: Timestamp, now: Timestamp) -> Self {
        Self {
            schema: "millhand.stats/1",
            as_of: rfc3339(now),
            since: rfc3339(since),
            items: tasks.iter().map(TaskJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TaskJson {
    task: String,
    runs: u64,
    executors: BTreeMap<&'static str, u64>,
    counts: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_share: Option<f64>,
    /// By phase, then by percentile.
    phases: Vec<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryJson>,
}

#[derive(Debug, Serialize)]
struct PhaseJson {
    phase: &'static str,
    count: u64,
    p50_seconds: f64,
    p95_seconds: f64,
    p99_seconds: f64,
}

#[derive(Debug, Serialize)]
struct MemoryJson {
    count: u64,
    p50_bytes: u64,
    p95_bytes: u64,
    p99_bytes: u64,
}

impl PhaseJson {
    /// `None` when nothing was measured.
    fn of(phase: &'static str, histogram: &Histogram) -> Option<Self> {
        let [p50, p95, p99] = QUANTILES.map(|q| histogram.quantile(q));
        Some(Self {
            phase,
            count: histogram.count(),
            p50_seconds: seconds(p50?),
            p95_seconds: seconds(p95?),
            p99_seconds: seconds(p99?),
        })
    }
}

impl MemoryJson {
    fn of(histogram: &Histogram) -> Option<Self> {
        let bytes = |q| Some(u64::try_from(histogram.quantile(q)?.as_micros()).unwrap_or(u64::MAX));
        Some(Self {
            count: histogram.count(),
            p50_bytes: bytes(0.5)?,
            p95_bytes: bytes(0.95)?,
            p99_bytes: bytes(0.99)?,
        })
    }
}

impl From<&TaskStats> for TaskJson {
    fn from(task: &TaskStats) -> Self {
        let (numbers, profile) = (&task.numbers, task.numbers.profile());
        let of = |what: Measure| profile.and_then(|p| PhaseJson::of(what.as_str(), p.measure(what)));
        Self {
            task: task.task.clone(),
            runs: numbers.run.count(),
            executors: task.executors().map(|(executor, n)| (executor.as_str(), n)).collect(),
            counts: Count::ALL.map(|what| (what.as_str(), shown(numbers, what))).into(),
            overhead_share: task.overhead(),
            cpu_share: profile.and_then(Profile::cpu_share),
            phases: task
                .phases()
                .into_iter()
                .filter_map(|(name, h)| PhaseJson::of(name, h))
                .collect(),
            moved: of(Measure::Moved),
            cpu: of(Measure::Cpu),
            blocked: of(Measure::Blocked),
            start: of(Measure::Start),
            memory: profile.and_then(|p| MemoryJson::of(p.measure(Measure::Peak))),
        }
    }
}

#[cfg(test)]
mod tests {
    use millhand_proto::Receipt;

    use super::*;
    use crate::fixture::{NOW, ago};

    const PLAIN: Style = Style {
        color: false,
        ascii: false,
        width: None,
    };

    fn resize() -> TaskStats {
        let mut numbers = Numbers::default();
        for n in 0..200 {
            let receipt = Receipt {
                enqueue: 300 + n,
                queue: 40_000 + n * 2_000,
                fetch: 90,
                room: 150_000,
                claim: 800 + n * 5,
                dispatch: 60,
                run: 42_000 + n * 50,
                cpu: Some(41_000),
                encode: 12,
                start: (n == 0).then_some(4_000),
                peak: Some(80 << 20),
                ..Receipt::default()
            };
            numbers.record(Executor::Process, &receipt, Duration::from_micros(900));
            numbers.count(Count::Succeeded);
        }
        // A crash is counted twice.
        for what in [
            Count::Failed,
            Count::Failed,
            Count::Failed,
            Count::Crashed,
            Count::Retried,
        ] {
            numbers.count(what);
        }
        TaskStats {
            task: "resize".into(),
            numbers,
        }
    }

    /// It was only met: it expired before it ran.
    fn late() -> TaskStats {
        let mut numbers = Numbers::default();
        numbers.count(Count::Expired);
        TaskStats {
            task: "late".into(),
            numbers,
        }
    }

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

    #[test]
    fn as_programs_read_it() {
        let list = StatsList::new(&[resize(), late()], ago(4_000), NOW);
        insta::assert_snapshot!(serde_json::to_string_pretty(&list).unwrap(), @r#"
        {
          "schema": "millhand.stats/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "since": "2031-02-03T02:58:26.789Z",
          "items": [
            {
              "task": "resize",
              "runs": 200,
              "executors": {
                "process": 200
              },
              "counts": {
                "cancelled": 0,
                "crashed": 1,
                "dead": 0,
                "expired": 0,
                "failed": 2,
                "retried": 1,
                "snoozed": 0,
                "succeeded": 200
              },
              "overhead_share": 0.05547512767925363,
              "cpu_share": 0.8728046833422033,
              "phases": [
                {
                  "phase": "enqueue",
                  "count": 200,
                  "p50_seconds": 0.0004,
                  "p95_seconds": 0.000464,
                  "p99_seconds": 0.000464
                },
                {
                  "phase": "queue",
                  "count": 200,
                  "p50_seconds": 0.237568,
                  "p95_seconds": 0.4096,
                  "p99_seconds": 0.4096
                },
                {
                  "phase": "fetch",
                  "count": 200,
                  "p50_seconds": 0.000084,
                  "p95_seconds": 0.000084,
                  "p99_seconds": 0.000084
                },
                {
                  "phase": "room",
                  "count": 200,
                  "p50_seconds": 0.139264,
                  "p95_seconds": 0.139264,
                  "p99_seconds": 0.139264
                },
                {
                  "phase": "claim",
                  "count": 200,
                  "p50_seconds": 0.001344,
                  "p95_seconds": 0.0016,
                  "p99_seconds": 0.0016
                },
                {
                  "phase": "dispatch",
                  "count": 200,
                  "p50_seconds": 0.000058,
                  "p95_seconds": 0.000058,
                  "p99_seconds": 0.000058
                },
                {
                  "phase": "run",
                  "count": 200,
                  "p50_seconds": 0.047104,
                  "p95_seconds": 0.0512,
                  "p99_seconds": 0.0512
                },
                {
                  "phase": "encode",
                  "count": 200,
                  "p50_seconds": 0.000012,
                  "p95_seconds": 0.000012,
                  "p99_seconds": 0.000012
                },
                {
                  "phase": "settle",
                  "count": 200,
                  "p50_seconds": 0.000928,
                  "p95_seconds": 0.000928,
                  "p99_seconds": 0.000928
                }
              ],
              "moved": {
                "phase": "moved",
                "count": 200,
                "p50_seconds": 0.002688,
                "p95_seconds": 0.0032,
                "p99_seconds": 0.0032
              },
              "cpu": {
                "phase": "cpu",
                "count": 200,
                "p50_seconds": 0.043008,
                "p95_seconds": 0.043008,
                "p99_seconds": 0.043008
              },
              "start": {
                "phase": "start",
                "count": 1,
                "p50_seconds": 0.003712,
                "p95_seconds": 0.003712,
                "p99_seconds": 0.003712
              },
              "memory": {
                "count": 200,
                "p50_bytes": 88080384,
                "p95_bytes": 88080384,
                "p99_bytes": 88080384
              }
            },
            {
              "task": "late",
              "runs": 0,
              "executors": {},
              "counts": {
                "cancelled": 0,
                "crashed": 0,
                "dead": 0,
                "expired": 1,
                "failed": 0,
                "retried": 0,
                "snoozed": 0,
                "succeeded": 0
              },
              "phases": []
            }
          ]
        }
        "#);
    }
}
