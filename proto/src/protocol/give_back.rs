use super::{Standing, Written, standing};
use crate::id::WorkerId;
use crate::outcome::AttemptEnd;
use crate::record::{AttemptNote, Entry, Fence};
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// Yields a claimed job: its worker stops. Same hand, no attempt counted; it runs elsewhere.
#[must_use]
pub fn give_back(
    entry: Option<Entry>,
    copy: &JobCopy,
    fence: Fence,
    worker: WorkerId,
    now: Timestamp,
) -> (Written, Option<Entry>) {
    let mut entry = match standing(entry, copy, fence) {
        Standing::Stale => return (Written::Stale, None),
        Standing::Done => return (Written::Already, None),
        Standing::Mine(entry) => *entry,
    };
    if entry.state != State::Running {
        return (Written::Already, None);
    }
    if let Some(started) = entry.started {
        let number = copy.attempt();
        entry.note(AttemptNote {
            number,
            started,
            ended: now,
            end: AttemptEnd::Interrupted,
            cause: None,
            error: None,
            worker,
            next: None,
        });
    }
    entry.state = State::Queued;
    entry.owner = None;
    entry.deadline = None;
    (Written::Applied, Some(entry))
}
