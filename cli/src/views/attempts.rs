//! What is known of a job's attempts: how they ended, the receipt, the log and the progress.

use std::time::Duration;

use millhand_proto::{AttemptLog, AttemptNote, JobId, LogLine, Progress, Receipt, Timestamp};
use serde::Serialize;

use crate::times::{rfc3339, seconds};

#[derive(Debug, Serialize)]
pub(super) struct NoteJson {
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
pub(super) struct ReceiptJson {
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

#[derive(Debug, Serialize)]
pub(super) struct ProgressJson {
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
pub(super) struct LogJson {
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
