use super::{Standing, standing};
use crate::outcome::AttemptEnd;
use crate::payload::Payload;
use crate::receipt::Receipt;
use crate::record::{AttemptNote, Entry, Fence};
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// How a job ends for good, short of death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a result; `None` when it lies beside the record.
    Succeeded(Option<Payload>),
    /// Cancelled while it ran.
    Cancelled(Option<AttemptNote>),
}

/// What became of a write with a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written now.
    Applied,
    /// It had been written before: same answer, no effects again.
    Already,
    /// A newer claim or hand stands: the result is thrown away, the own copy acknowledged.
    Stale,
}

/// Writes the end of a job that ran.
#[must_use]
pub fn finish(
    entry: Option<Entry>,
    copy: &JobCopy,
    fence: Fence,
    end: End,
    receipt: Receipt,
    now: Timestamp,
) -> (Written, Option<Entry>) {
    let mut entry = match standing(entry, copy, fence) {
        Standing::Stale => return (Written::Stale, None),
        Standing::Done => return (Written::Already, None),
        Standing::Mine(entry) => *entry,
    };
    entry.attempts = copy.attempt();
    entry.ended = Some(now);
    entry.deadline = None;
    entry.due = None;
    entry.receipt = Some(receipt);
    // A store that was rolled back may tell of a successor that this newer claim overtakes.
    entry.leaving = None;
    match end {
        End::Succeeded(result) => {
            entry.state = State::Succeeded;
            entry.result = result;
        }
        End::Cancelled(note) => {
            entry.state = State::Cancelled;
            entry.reason = Some("cancelled".into());
            if let Some(note) = note {
                debug_assert_ne!(note.end, AttemptEnd::Succeeded);
                entry.note(note);
            }
        }
    }
    (Written::Applied, Some(entry))
}
