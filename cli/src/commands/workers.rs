//! `millhand worker list`

use std::fmt::Write as _;
use std::time::Duration;

use millhand_broker::{LongPoll, WorkerHealth, WorkerView};
use millhand_proto::words::human;
use millhand_proto::{QueueName, TaskName, Timestamp, limits};
use serde::Serialize;

use crate::args::{Format, Global};
use crate::exit::{Exit, Outcome};
use crate::output::{Align, Style, Table, Ui, clean};
use crate::times::{compact, rfc3339, seconds};

pub(super) async fn list(global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let workers = client.admin().workers().await?;
    let now = client.backend().now();
    match ui.format {
        Format::Text if workers.is_empty() => ui.note("no worker runs"),
        Format::Text => ui.print(&text(&workers, now, ui.style))?,
        Format::Json => ui.document(&WorkerList {
            schema: "millhand.worker.list/1",
            as_of: rfc3339(now),
            items: items(&workers, now),
        })?,
        Format::Jsonl => ui.lines(&items(&workers, now))?,
    }
    Ok(Exit::Done)
}

/// Why a worker is not ready, as far as can be told from here.
fn not_ready(view: &WorkerView, now: Timestamp) -> Vec<String> {
    let mut reasons = view.beat.health.not_ready.clone();
    let silent = now.since(view.at);
    if silent >= limits::LEASE {
        reasons.push(format!("it has not beaten for {}", human(silent)));
    }
    reasons
}

fn text(workers: &[WorkerView], now: Timestamp, style: Style) -> String {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("WORKER", Align::Left),
        ("READY", Align::Left),
        ("SLOTS", right),
        ("LEAKED", right),
        ("LAG P50", right),
        ("P99", right),
        ("BLOCKED", right),
        ("UP", right),
        ("BEAT", right),
        ("QUEUES", Align::Left),
    ]);
    let mut notes = String::new();
    for view in workers {
        let beat = &view.beat;
        let name = format!("{}:{}", clean(&beat.host, false), beat.pid);
        let WorkerHealth {
            leaked,
            lag,
            long_polls,
            newest,
            ..
        } = &beat.health;
        let reasons = not_ready(view, now);
        let micros = |micros: u64| compact(Duration::from_micros(micros));
        let queues: Vec<_> = beat.queues.iter().map(QueueName::as_str).collect();
        table.row(vec![
            name.clone().into(),
            if reasons.is_empty() { "yes" } else { "no" }.into(),
            format!("{}/{}", beat.running, beat.slots).into(),
            leaked.to_string().into(),
            lag.map_or_else(|| "-".to_owned(), |lag| micros(lag.p50)).into(),
            lag.map_or_else(|| "-".to_owned(), |lag| micros(lag.p99)).into(),
            long_polls.to_string().into(),
            compact(now.since(beat.started)).into(),
            compact(now.since(view.at)).into(),
            queues.join(",").into(),
        ]);
        for reason in reasons {
            let _ = writeln!(notes, "{name}: not ready: {}", clean(&reason, false));
        }
        for poll in newest {
            let _ = writeln!(notes, "{name}: {}", blocked(poll));
        }
    }
    let table = table.render(style);
    if notes.is_empty() {
        table
    } else {
        format!("{table}\n{notes}")
    }
}

fn blocked(poll: &LongPoll) -> String {
    let span = |micros| human(Duration::from_micros(micros));
    format!(
        "task {} {} an async thread for {}; others waited {} (job {})",
        poll.task,
        if poll.lasts { "has held" } else { "held" },
        span(poll.micros),
        span(poll.others),
        poll.job
    )
}

#[derive(Debug, Serialize)]
struct WorkerList {
    schema: &'static str,
    as_of: String,
    items: Vec<WorkerJson>,
}

#[derive(Debug, Serialize)]
struct WorkerJson {
    id: String,
    host: String,
    pid: u32,
    ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready: Vec<String>,
    started_at: String,
    beat_at: String,
    slots: u32,
    running: u32,
    leaked: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_p99_seconds: Option<f64>,
    long_polls: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    newest_long_polls: Vec<LongPollJson>,
    queues: Vec<String>,
    tasks: Vec<String>,
}

#[derive(Debug, Serialize)]
struct LongPollJson {
    task: String,
    job: String,
    held_seconds: f64,
    others_waited_seconds: f64,
    lasts: bool,
}

fn items(workers: &[WorkerView], now: Timestamp) -> Vec<WorkerJson> {
    let secs = |micros| seconds(Duration::from_micros(micros));
    let poll = |poll: &LongPoll| LongPollJson {
        task: poll.task.to_string(),
        job: poll.job.to_string(),
        held_seconds: secs(poll.micros),
        others_waited_seconds: secs(poll.others),
        lasts: poll.lasts,
    };
    let item = |view: &WorkerView| {
        let (beat, health) = (&view.beat, &view.beat.health);
        let not_ready = not_ready(view, now);
        WorkerJson {
            id: beat.worker.to_string(),
            host: beat.host.clone(),
            pid: beat.pid,
            ready: not_ready.is_empty(),
            not_ready,
            started_at: rfc3339(beat.started),
            beat_at: rfc3339(view.at),
            slots: beat.slots,
            running: beat.running,
            leaked: health.leaked,
            lag_p50_seconds: health.lag.map(|lag| secs(lag.p50)),
            lag_p99_seconds: health.lag.map(|lag| secs(lag.p99)),
            long_polls: health.long_polls,
            newest_long_polls: health.newest.iter().map(poll).collect(),
            queues: beat.queues.iter().map(QueueName::to_string).collect(),
            tasks: beat.tasks.iter().map(TaskName::to_string).collect(),
        }
    };
    workers.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use millhand_broker::{LoopLag, WorkerBeat};
    use millhand_proto::{JobId, Mailbox};

    use super::*;
    use crate::fixture::NOW;

    fn workers() -> Vec<WorkerView> {
        let worker = |n: u8, silent: u64| {
            let id = Mailbox::from_bytes([n; 16]);
            let mut beat = WorkerBeat::new(id, Timestamp::from_micros(NOW.as_micros() - 900_000_000), vec![]);
            (beat.host, beat.pid, beat.slots, beat.running) = ("here".into(), u32::from(n), 4, 2);
            beat.queues = vec![QueueName::default(), QueueName::new("slow").unwrap()];
            let at = Timestamp::from_micros(NOW.as_micros() - i64::try_from(silent).unwrap() * 1_000_000);
            WorkerView { beat, at }
        };
        let mut troubled = worker(2, 1);
        troubled.beat.health = WorkerHealth {
            not_ready: vec!["2 of its 4 thread slots are leaked: jobs were asked to end and do not".into()],
            leaked: 2,
            lag: Some(LoopLag { p50: 90, p99: 43_000 }),
            long_polls: 17,
            newest: vec![LongPoll {
                task: TaskName::new("resize").unwrap(),
                job: JobId::from_bytes([8; 16]),
                micros: 200_000,
                others: 150_000,
                lasts: false,
            }],
        };
        vec![worker(1, 2), troubled, worker(3, 20)]
    }

    #[test]
    fn workers_are_listed_with_what_is_wrong() {
        let plain = Style {
            ascii: true,
            ..Style::default()
        };
        insta::assert_snapshot!(text(&workers(), NOW, plain), @r"
        WORKER  READY  SLOTS  LEAKED  LAG P50     P99  BLOCKED      UP   BEAT  QUEUES
        here:1  yes      2/4       0        -       -        0  15m00s  2.00s  default,slow
        here:2  no       2/4       2     90µs  43.0ms       17  15m00s  1.00s  default,slow
        here:3  no       2/4       0        -       -        0  15m00s  20.0s  default,slow

        here:2: not ready: 2 of its 4 thread slots are leaked: jobs were asked to end and do not
        here:2: task resize held an async thread for 200 ms; others waited 150 ms (job 08080808-0808-0808-0808-080808080808)
        here:3: not ready: it has not beaten for 20.0 s
        ");
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(items(&workers(), NOW)).unwrap();
        assert_eq!(
            (&json[0]["ready"], &json[1]["ready"], &json[2]["ready"]),
            (&true.into(), &false.into(), &false.into())
        );
        assert_eq!(json[1]["lag_p99_seconds"], 0.043);
        assert_eq!(json[1]["newest_long_polls"][0]["task"], "resize");
        assert_eq!(json[0].get("not_ready"), None);
    }
}
