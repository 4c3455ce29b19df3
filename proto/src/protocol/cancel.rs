use crate::id::WorkerId;
use crate::record::{Entry, Leaving};
use crate::state::State;
use crate::time::Timestamp;

/// What a cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// The job is cancelled; it will not start.
    Cancelled,
    /// It runs; its owner is to be told.
    Asked(WorkerId),
    /// It had ended before, like this.
    Ended(State),
}

/// Cancels a job whose entry is `entry`, the one where the highest hand decided so far lives.
/// `reason` is `cancelled` or `purged`.
///
/// On an entry that is leaving, the cancelled entry stands at the successor's hand, so that the
/// copy on its way is dropped; where that hand lives elsewhere, `confirm` finds this and stops.
#[must_use]
pub fn cancel(mut entry: Entry, reason: &str, now: Timestamp) -> (Cancel, Option<Entry>) {
    if entry.state.is_ended() {
        return (Cancel::Ended(entry.state), None);
    }
    if let (State::Running, Some(owner)) = (entry.state, entry.owner) {
        entry.cancel_asked = entry.cancel_asked.or(Some(now));
        return (Cancel::Asked(owner), Some(entry));
    }
    // A death keeps its hand.
    if entry
        .leaving
        .take()
        .is_some_and(|successor| successor.why != Leaving::Death)
    {
        entry.hand += 1;
    }
    entry.state = State::Cancelled;
    entry.reason = Some(reason.to_owned());
    entry.ended = Some(now);
    entry.due = None;
    (Cancel::Cancelled, Some(entry))
}
