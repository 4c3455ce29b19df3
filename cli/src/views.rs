//! What programs read: the JSON shapes. Fields are added, never changed.

use std::time::Duration;

use millhand_broker::{JobPage, JobView, QueueView, Unreadable};
use millhand_proto::limits::Limit;
use millhand_proto::{AttemptLog, AttemptNote, JobId, LogLine, Payload, Progress, Receipt, State, Timestamp};
use millhand_worker::child_check::{Checked, Verdict};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::times::{rfc3339, seconds};

/// How long the job has waited, or waited before its last attempt, where that is known.
pub(crate) fn waited(view: &JobView, now: Timestamp) -> Option<Duration> {
    let entry = &view.entry;
    let ready = entry.due.unwrap_or(entry.enqueued_at).max(entry.enqueued_at);
    match entry.state {
        State::Queued => Some(now.since(ready)),
        State::Scheduled | State::Retrying => None,
        _ => entry.receipt.map(|r| Duration::from_micros(r.waited())),
    }
}

/// How long the job has run, or its last attempt did.
pub(crate) fn ran(view: &JobView, now: Timestamp) -> Option<Duration> {
    let entry = &view.entry;
    match entry.state {
        State::Running => entry.started.map(|started| now.since(started)),
        _ => entry.receipt.map(|r| Duration::from_micros(r.run)),
    }
}

/// The number of the attempt that runs, else of those that were made.
pub(crate) fn tries(view: &JobView) -> u32 {
    view.entry.attempts + u32::from(view.entry.state == State::Running)
}

/// The newest error.
pub(crate) fn last_error(view: &JobView) -> Option<&str> {
    view.entry
        .notes
        .iter()
        .rev()
        .find_map(|n| n.error.as_ref())
        .map(millhand_proto::ErrorText::as_str)
}

/// A value as JSON, byte for byte but for line ends between its parts; or why it cannot be shown.
pub(crate) fn raw(payload: &Payload) -> Result<Box<RawValue>, String> {
    let text = payload.to_json().map_err(|e| e.to_string())?;
    // A line end in JSON stands between its parts only, and one item must be one line.
    let text = text.replace(['\n', '\r'], " ");
    RawValue::from_string(text).map_err(|e| e.to_string())
}

#[derive(Debug, Serialize)]
pub(crate) struct JobJson {
    pub(crate) id: String,
    state: &'static str,
    task: String,
    queue: String,
    class: &'static str,
    attempts: u32,
    enqueued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_seconds: Option<f64>,
    age_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<ParkedJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_asked_at: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    worker_deaths: u32,
    #[serde(skip_serializing_if = "is_zero")]
    crashes: u32,
    #[serde(skip_serializing_if = "is_zero")]
    conflicts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt_notes: Option<Vec<NoteJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_error: Option<String>,
}

/// What is known of a job and lies beside its record.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub(crate) log: Option<AttemptLog>,
    /// How far it says it is, and when its worker told of it.
    pub(crate) progress: Option<(Progress, Timestamp)>,
}

#[derive(Debug, Serialize)]
struct ProgressJson {
    done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    as_of: String,
}

impl From<(Progress, Timestamp)> for ProgressJson {
    fn from((progress, at): (Progress, Timestamp)) -> Self {
        Self {
            done: progress.done,
            total: (progress.total > 0).then_some(progress.total),
            as_of: rfc3339(at),
        }
    }
}

/// That there is a log; its lines are read apart.
#[derive(Debug, Serialize)]
struct LogJson {
    attempt: u32,
    lines: usize,
    dropped_lines: u64,
}

impl From<&AttemptLog> for LogJson {
    fn from(log: &AttemptLog) -> Self {
        Self {
            attempt: log.attempt,
            lines: log.lines.len(),
            dropped_lines: log.dropped,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct LogDocument {
    schema: &'static str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    dropped_lines: u64,
    pub(crate) items: Vec<LogLineJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LogLineJson {
    after_seconds: f64,
    source: &'static str,
    text: String,
}

impl LogDocument {
    pub(crate) fn new(id: JobId, log: Option<&AttemptLog>) -> Self {
        let line = |line: &LogLine| LogLineJson {
            after_seconds: seconds(line.after()),
            source: line.source.as_str(),
            text: line.text.clone(),
        };
        Self {
            schema: "millhand.job.log/1",
            id: id.to_string(),
            attempt: log.map(|log| log.attempt),
            dropped_lines: log.map_or(0, |log| log.dropped),
            items: log.map_or_else(Vec::new, |log| log.lines.iter().map(line).collect()),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Debug, Serialize)]
struct ParkedJson {
    since: String,
    times: u32,
    why: String,
}

#[derive(Debug, Serialize)]
struct NoteJson {
    number: u32,
    end: &'static str,
    started_at: String,
    ended_at: String,
    run_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<f64>,
}

impl From<&AttemptNote> for NoteJson {
    fn from(note: &AttemptNote) -> Self {
        Self {
            number: note.number,
            end: note.end.as_str(),
            started_at: rfc3339(note.started),
            ended_at: rfc3339(note.ended),
            run_seconds: seconds(note.ended.since(note.started)),
            cause: note.cause.clone(),
            error: note.error.as_ref().map(|e| e.as_str().to_owned()),
            worker: note.worker.to_string(),
            next_at: note.next.map(rfc3339),
            delay_seconds: note.next.map(|next| seconds(next.since(note.ended))),
        }
    }
}

#[derive(Debug, Serialize)]
struct ReceiptJson {
    enqueue_seconds: f64,
    queue_seconds: f64,
    fetch_seconds: f64,
    room_seconds: f64,
    claim_seconds: f64,
    dispatch_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_seconds: Option<f64>,
    run_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    encode_seconds: f64,
    whole_seconds: f64,
}

impl From<Receipt> for ReceiptJson {
    fn from(receipt: Receipt) -> Self {
        let secs = |micros| seconds(Duration::from_micros(micros));
        Self {
            enqueue_seconds: secs(receipt.enqueue),
            queue_seconds: secs(receipt.queue),
            fetch_seconds: secs(receipt.fetch),
            room_seconds: secs(receipt.room),
            claim_seconds: secs(receipt.claim),
            dispatch_seconds: secs(receipt.dispatch),
            start_seconds: receipt.start.map(secs),
            run_seconds: secs(receipt.run),
            cpu_seconds: receipt.cpu.map(secs),
            blocked_seconds: receipt.blocked.map(secs),
            peak_bytes: receipt.peak,
            encode_seconds: secs(receipt.encode),
            whole_seconds: secs(receipt.whole()),
        }
    }
}

impl JobJson {
    /// A job as a row of a list: without arguments, result, receipt and attempts.
    pub(crate) fn row(view: &JobView, now: Timestamp) -> Self {
        let entry = &view.entry;
        Self {
            id: view.id.to_string(),
            state: entry.state.as_str(),
            task: entry.task.to_string(),
            queue: view.queue.to_string(),
            class: view.class.as_str(),
            attempts: entry.attempts,
            enqueued_at: rfc3339(entry.enqueued_at),
            due_at: entry.due.map(rfc3339),
            expires_at: entry.expires.map(rfc3339),
            started_at: entry.started.map(rfc3339),
            ended_at: entry.ended.map(rfc3339),
            wait_seconds: waited(view, now).map(seconds),
            run_seconds: ran(view, now).map(seconds),
            age_seconds: seconds(now.since(entry.enqueued_at)),
            reason: entry.reason.clone(),
            // What an earlier attempt of a job that succeeded said stands in its notes.
            error: last_error(view)
                .filter(|_| entry.state != State::Succeeded)
                .map(str::to_owned),
            tags: entry.tags.clone(),
            worker: entry.owner.map(|w| w.to_string()),
            parked: entry.parked.as_ref().map(|parked| ParkedJson {
                since: rfc3339(parked.since),
                times: parked.times,
                why: parked.why.clone(),
            }),
            cancel_asked_at: entry.cancel_asked.map(rfc3339),
            worker_deaths: entry.deaths,
            crashes: entry.crashes,
            conflicts: entry.conflicts,
            attempt_notes: None,
            progress: None,
            log: None,
            receipt: None,
            args: None,
            args_error: None,
            result: None,
            result_error: None,
        }
    }

    /// A job with all that is known of it.
    pub(crate) fn whole(view: &JobView, beside: &Beside, now: Timestamp) -> Self {
        let entry = &view.entry;
        let split = |payload: Option<&Payload>| match payload.map(raw) {
            None => (None, None),
            Some(Ok(value)) => (Some(value), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let (args, args_error) = split(view.args.as_ref());
        let (result, result_error) = split(entry.result.as_ref());
        Self {
            attempt_notes: Some(entry.notes.iter().map(NoteJson::from).collect()),
            progress: beside.progress.map(ProgressJson::from),
            log: beside.log.as_ref().map(LogJson::from),
            receipt: entry.receipt.map(ReceiptJson::from),
            args,
            args_error,
            result,
            result_error,
            ..Self::row(view, now)
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct JobDocument {
    schema: &'static str,
    as_of: String,
    job: JobJson,
}

impl JobDocument {
    pub(crate) fn new(view: &JobView, beside: &Beside, now: Timestamp) -> Self {
        Self {
            schema: "millhand.job/1",
            as_of: rfc3339(now),
            job: JobJson::whole(view, beside, now),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct JobList {
    schema: &'static str,
    as_of: String,
    pub(crate) items: Vec<JobJson>,
    count: Count,
    looked_at: usize,
}

#[derive(Debug, Serialize)]
struct Count {
    value: usize,
    exact: bool,
}

impl JobList {
    pub(crate) fn new(page: &JobPage, now: Timestamp) -> Self {
        Self {
            schema: "millhand.job.list/1",
            as_of: rfc3339(now),
            items: page.jobs.iter().map(|view| JobJson::row(view, now)).collect(),
            count: Count {
                value: page.jobs.len(),
                exact: page.complete && !page.more,
            },
            looked_at: page.looked_at,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Items<T> {
    pub(crate) schema: String,
    pub(crate) items: Vec<T>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CheckJson {
    name: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl From<Checked> for CheckJson {
    fn from(Checked { name, verdict }: Checked) -> Self {
        let (verdict, why) = match verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why.to_owned())),
        };
        Self { name, verdict, why }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct WaitJson {
    pub(crate) id: String,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ActJson {
    pub(crate) id: String,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ActDocument {
    pub(crate) schema: String,
    pub(crate) dry_run: bool,
    pub(crate) done: usize,
    pub(crate) asked: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) items: Vec<ActJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EnqueueJson {
    schema: &'static str,
    id: String,
    task: String,
    queue: String,
}

impl EnqueueJson {
    pub(crate) fn new(id: String, task: String, queue: String) -> Self {
        Self {
            schema: "millhand.enqueue/1",
            id,
            task,
            queue,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct QueueJson {
    name: String,
    queued: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    scheduled: Option<u64>,
    held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_queued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_since: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableJson>,
}

#[derive(Debug, Serialize)]
struct UnreadableJson {
    at: String,
    reason: String,
    size_bytes: usize,
}

impl From<&Unreadable> for UnreadableJson {
    fn from(it: &Unreadable) -> Self {
        Self {
            at: rfc3339(it.at),
            reason: it.reason.clone(),
            size_bytes: it.bytes,
        }
    }
}

impl From<&QueueView> for QueueJson {
    fn from(queue: &QueueView) -> Self {
        Self {
            name: queue.name.to_string(),
            queued: queue.trouble.is_none().then_some(queue.queued),
            trouble: queue.trouble.clone(),
            scheduled: queue.scheduled,
            held: queue.held,
            oldest_queued_at: queue.oldest.map(rfc3339),
            paused_since: queue.paused.map(rfc3339),
            unreadable: queue.unreadable.iter().map(UnreadableJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct QueueList {
    schema: &'static str,
    as_of: String,
    pub(crate) items: Vec<QueueJson>,
}

impl QueueList {
    pub(crate) fn new(queues: &[QueueView], now: Timestamp) -> Self {
        let items = queues.iter().map(QueueJson::from).collect();
        Self {
            schema: "millhand.queue.list/1",
            as_of: rfc3339(now),
            items,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ControlJson {
    pub(crate) schema: String,
    pub(crate) queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purged: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dry_run: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LimitJson {
    name: &'static str,
    value: &'static str,
    meaning: &'static str,
}

impl From<&Limit> for LimitJson {
    fn from(limit: &Limit) -> Self {
        Self {
            name: limit.name,
            value: limit.value,
            meaning: limit.meaning,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fixture::{self, NOW};

    /// As it is printed, but with line ends, so that a difference can be read.
    fn pretty<T: Serialize>(value: &T) -> String {
        serde_json::to_string_pretty(value).unwrap()
    }

    #[test]
    fn a_whole_job() {
        insta::assert_snapshot!(pretty(&JobDocument::new(&fixture::third_time_lucky(), &Beside::default(), NOW)), @r#"
        {
          "schema": "millhand.job/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "job": {
            "id": "01c0dd47-c4d5-8000-8000-000000000400",
            "state": "succeeded",
            "task": "wordcount",
            "queue": "default",
            "class": "normal",
            "attempts": 3,
            "enqueued_at": "2031-02-03T04:03:36.789Z",
            "started_at": "2031-02-03T04:04:25.789Z",
            "ended_at": "2031-02-03T04:04:26.789Z",
            "wait_seconds": 0.300902,
            "run_seconds": 0.6,
            "age_seconds": 90.0,
            "tags": [
              "blue",
              "\u001b[31mred"
            ],
            "worker": "07070707-0707-0707-0707-070707070707",
            "attempt_notes": [
              {
                "number": 1,
                "end": "failed",
                "started_at": "2031-02-03T04:03:37.789Z",
                "ended_at": "2031-02-03T04:03:38.989Z",
                "run_seconds": 1.2,
                "error": "no route to host",
                "worker": "07070707-0707-0707-0707-070707070707",
                "next_at": "2031-02-03T04:03:50.989Z",
                "delay_seconds": 12.0
              },
              {
                "number": 2,
                "end": "timed_out",
                "started_at": "2031-02-03T04:03:51.789Z",
                "ended_at": "2031-02-03T04:03:52.989Z",
                "run_seconds": 1.2,
                "error": "no route to host\n  at \u0007line 2",
                "worker": "07070707-0707-0707-0707-070707070707",
                "next_at": "2031-02-03T04:04:17.989Z",
                "delay_seconds": 25.0
              }
            ],
            "receipt": {
              "enqueue_seconds": 0.0012,
              "queue_seconds": 0.3,
              "fetch_seconds": 0.00009,
              "room_seconds": 0.000812,
              "claim_seconds": 0.0048,
              "dispatch_seconds": 0.041,
              "start_seconds": 0.0395,
              "run_seconds": 0.6,
              "cpu_seconds": 0.48,
              "blocked_seconds": 0.043,
              "peak_bytes": 50331648,
              "encode_seconds": 0.000035,
              "whole_seconds": 0.947937
            },
            "result": ["three",3]
          }
        }
        "#);
    }

    #[test]
    fn a_list_of_jobs() {
        let page = JobPage {
            jobs: fixture::every_state()[2..5].to_vec(),
            more: true,
            looked_at: 50,
            complete: false,
        };
        insta::assert_snapshot!(pretty(&JobList::new(&page, NOW)), @r#"
        {
          "schema": "millhand.job.list/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "items": [
            {
              "id": "01c0dd47-9dc5-8000-8000-000000001400",
              "state": "queued",
              "task": "unheard",
              "queue": "default",
              "class": "normal",
              "attempts": 0,
              "enqueued_at": "2031-02-03T04:03:26.789Z",
              "wait_seconds": 100.0,
              "age_seconds": 100.0,
              "parked": {
                "since": "2031-02-03T04:03:36.789Z",
                "times": 3,
                "why": "task unheard is not known here"
              }
            },
            {
              "id": "01c0dd48-f585-8000-8000-000000001800",
              "state": "running",
              "task": "resize",
              "queue": "default",
              "class": "normal",
              "attempts": 1,
              "enqueued_at": "2031-02-03T04:04:54.789Z",
              "started_at": "2031-02-03T04:04:55.789Z",
              "run_seconds": 11.0,
              "age_seconds": 12.0,
              "cancel_asked_at": "2031-02-03T04:05:05.789Z"
            },
            {
              "id": "01c0dd48-3a05-8000-8000-000000001c00",
              "state": "retrying",
              "task": "fetch",
              "queue": "default",
              "class": "normal",
              "attempts": 1,
              "enqueued_at": "2031-02-03T04:04:06.789Z",
              "due_at": "2031-02-03T04:05:15.789Z",
              "age_seconds": 60.0
            }
          ],
          "count": {
            "value": 3,
            "exact": false
          },
          "looked_at": 50
        }
        "#);
    }

    #[test]
    fn a_list_of_queues() {
        insta::assert_snapshot!(pretty(&QueueList::new(&fixture::queues(), NOW)), @r#"
        {
          "schema": "millhand.queue.list/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "items": [
            {
              "name": "default",
              "queued": 12410,
              "scheduled": 3,
              "held": 4,
              "oldest_queued_at": "2031-02-03T03:03:26.789Z"
            },
            {
              "name": "mail",
              "queued": 0,
              "scheduled": 3,
              "held": 4,
              "paused_since": "2031-02-03T04:04:06.789Z",
              "unreadable": [
                {
                  "at": "2031-02-03T04:04:56.789Z",
                  "reason": "values nest deeper\u001b than 64 levels",
                  "size_bytes": 20000
                }
              ]
            },
            {
              "name": "odd",
              "queued": null,
              "trouble": "queue mh.main.1.q.odd.normal has other arguments",
              "scheduled": 3,
              "held": 4
            }
          ]
        }
        "#);
    }

    #[test]
    fn acts_waits_controls_and_limits() {
        let act = ActDocument {
            schema: "millhand.job.cancel/1".into(),
            dry_run: false,
            done: 1,
            asked: 0,
            refused: 1,
            unknown: 0,
            items: vec![ActJson {
                id: "a".into(),
                outcome: "refused",
                why: Some("it is dead already".into()),
            }],
        };
        let wait = WaitJson {
            id: "a".into(),
            outcome: "dead",
            why: Some("dead after 1 attempt".into()),
            result: None,
        };
        let purge = ControlJson {
            schema: "millhand.queue.purge/1".into(),
            queue: "mail".into(),
            changed: None,
            purged: Some(7),
            dry_run: None,
        };
        let limit = LimitJson::from(&millhand_proto::limits::TABLE[0]);
        let lines = [
            serde_json::to_string(&act).unwrap(),
            serde_json::to_string(&Items {
                schema: "millhand.job.wait/1".into(),
                items: vec![wait],
            })
            .unwrap(),
            serde_json::to_string(&purge).unwrap(),
            serde_json::to_string(&limit).unwrap(),
            serde_json::to_string(&EnqueueJson::new("a".into(), "t".into(), "default".into())).unwrap(),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"schema":"millhand.job.cancel/1","dry_run":false,"done":1,"asked":0,"refused":1,"unknown":0,"items":[{"id":"a","outcome":"refused","why":"it is dead already"}]}
        {"schema":"millhand.job.wait/1","items":[{"id":"a","outcome":"dead","why":"dead after 1 attempt"}]}
        {"schema":"millhand.queue.purge/1","queue":"mail","purged":7}
        {"name":"name","value":"64 characters","meaning":"task, queue and namespace names; longer ones are refused"}
        {"schema":"millhand.enqueue/1","id":"a","task":"t","queue":"default"}
        "#);
    }

    #[test]
    fn values_are_passed_on_digit_by_digit_on_one_line_and_lists_of_any_length_parse() {
        let json = serde_json::to_string(&JobJson::whole(&fixture::dead(), &Beside::default(), NOW)).unwrap();
        assert!(
            json.contains("\"args\":{\"n\": 2,  \"big\": 123456789012345678901234567890}"),
            "{json}"
        );
        assert_eq!(json.lines().count(), 1);
        for count in [0, 1, 10_000] {
            let jobs = vec![fixture::dead(); count];
            let page = JobPage {
                jobs,
                more: false,
                looked_at: count,
                complete: true,
            };
            let text = serde_json::to_string(&JobList::new(&page, NOW)).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), count);
        }
    }

    #[test]
    fn a_crash_has_its_cause_and_other_ends_have_none() {
        let json = serde_json::to_value(JobJson::whole(&fixture::dead(), &Beside::default(), NOW)).unwrap();
        let notes = &json["attempt_notes"];
        assert_eq!(notes[1]["end"], "crashed");
        assert_eq!(notes[1]["cause"], "SIGSEGV\u{1b}");
        assert!(notes[0].get("cause").is_none(), "{notes}");
    }

    #[test]
    fn a_value_that_is_no_json_is_told_as_an_error() {
        let mut view = fixture::dead();
        view.args = Some(Payload {
            codec: millhand_proto::Codec::MessagePack,
            bytes: vec![0xc1].into(),
        });
        let json = serde_json::to_value(JobJson::whole(&view, &Beside::default(), NOW)).unwrap();
        assert!(json["args"].is_null());
        assert!(json["args_error"].as_str().unwrap().contains("0xc1"), "{json}");
    }

    #[test]
    fn a_log_and_progress_beside_a_job() {
        let (view, beside) = (fixture::dead(), fixture::beside());
        let json = serde_json::to_value(JobJson::whole(&view, &beside, NOW)).unwrap();
        assert_eq!(
            json["log"],
            serde_json::json!({"attempt": 2, "lines": 12, "dropped_lines": 3})
        );
        assert_eq!(
            json["progress"],
            serde_json::json!({"done": 42, "total": 100, "as_of": "2031-02-03T04:05:03.789Z"})
        );
        let log = serde_json::to_value(LogDocument::new(view.id, beside.log.as_ref())).unwrap();
        assert_eq!(
            log["items"][11],
            serde_json::json!({"after_seconds": 1.1, "source": "said", "text": "line 12\u{1b}[31m"})
        );
        let none = serde_json::to_value(LogDocument::new(view.id, None)).unwrap();
        assert_eq!(none["items"], serde_json::json!([]));
    }
}
