//! Jobs: as rows of a list, and one with all that is known of it.

use millhand_broker::{JobPage, JobView};
use millhand_proto::{AttemptLog, Payload, Progress, State, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::attempts::{LogJson, NoteJson, ProgressJson, ReceiptJson};
use super::{last_error, ran, raw, waited};
use crate::times::{rfc3339, seconds};

/// What is known of a job and lies beside its record.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub(crate) log: Option<AttemptLog>,
    /// How far it says it is, and when its worker told of it.
    pub(crate) progress: Option<(Progress, Timestamp)>,
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
struct ParkedJson {
    since: String,
    times: u32,
    why: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fixture::{self, NOW};
    use crate::views::{LogDocument, pretty};

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
