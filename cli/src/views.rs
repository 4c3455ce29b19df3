//! What programs read: the JSON shapes. Fields are added, never changed.

mod answers;
mod attempts;
mod job;
mod queue;

use std::time::Duration;

use millhand_broker::JobView;
use millhand_proto::{Payload, State, Timestamp};
use serde_json::value::RawValue;

pub(crate) use self::answers::{ActDocument, ActJson, CheckJson, ControlJson, EnqueueJson, Items, LimitJson, WaitJson};
pub(crate) use self::attempts::LogDocument;
pub(crate) use self::job::{Beside, JobDocument, JobJson, JobList};
pub(crate) use self::queue::QueueList;

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

/// As it is printed, but with line ends, so that a difference can be read.
#[cfg(test)]
fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap()
}
