use crate::record::{Entry, Leaving, Successor};
use crate::sabotage::{Bug, planted};
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// What the written confirm makes of the entries: both or neither are swapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The entry where the present copy's hand lives.
    pub here: Option<Entry>,
    /// The entry in the job's own record, where the successor's hand lives; only if absent there.
    pub own: Option<Entry>,
}

impl Successor {
    /// The copy that this decision publishes. A death keeps the hand: it goes to the dead queue.
    #[must_use]
    pub fn copy(&self, copy: &JobCopy, error: Option<&str>) -> JobCopy {
        let mut next = copy.clone();
        let ran = match self.why {
            Leaving::Retry => true,
            Leaving::Death => error.is_some(),
            Leaving::Snooze => false,
        };
        if ran {
            next.hop.attempts = copy.attempt();
            if next.hop.first_error.is_none() {
                next.hop.first_error = error.map(|e| e.chars().take(256).collect());
            }
        }
        if self.why == Leaving::Death {
            return next;
        }
        if !planted(Bug::HandNotRaised) {
            next.hop.hand += 1;
        }
        next.hop.due = Some(self.due);
        next.hop.deaths = 0;
        next.hop.parked = None;
        next.hop.busy = 0;
        next.hop.expected_version = None;
        next
    }
}

/// Writes that the successor is in the queue. Nothing happens when the entry is not leaving, so a
/// repeated confirm is harmless, and a cancel that came between stays.
#[must_use]
pub fn confirm(entry: Entry, copy: &JobCopy, now: Timestamp) -> Confirmed {
    let nothing = Confirmed { here: None, own: None };
    if entry.hand != copy.hop.hand || entry.state.is_ended() {
        return nothing;
    }
    let Some(successor) = entry.leaving else {
        return nothing;
    };
    let mut next = entry.clone();
    next.leaving = None;
    if successor.why == Leaving::Death {
        next.state = State::Dead;
        next.ended = Some(now);
        next.due = None;
        return Confirmed {
            here: Some(next),
            own: None,
        };
    }
    next.hand += 1;
    next.claims = 0;
    next.token = 0;
    next.deaths = 0;
    next.due = Some(successor.due);
    next.reason = None;
    next.detached = false;
    let id = copy.id();
    if id.record_at(copy.hop.hand) == id.record_at(next.hand) {
        return Confirmed {
            here: Some(next),
            own: None,
        };
    }
    next.index = 0;
    let mut old = entry;
    old.moved = true;
    old.leaving = None;
    old.notes.clear();
    old.waiters.clear();
    old.receipt = None;
    Confirmed {
        here: Some(old),
        own: Some(next),
    }
}

/// `confirm` for a store that can lose its memory: writes only what `published` was, since the
/// record may tell of another's decision by now. Also answers whether the present copy may be
/// acknowledged; if not, the death is nowhere remembered, and the copy must be met again.
#[must_use]
pub fn confirm_published(
    entry: Option<Entry>,
    copy: &JobCopy,
    published: Successor,
    now: Timestamp,
) -> (bool, Confirmed) {
    let nothing = Confirmed { here: None, own: None };
    let Some(entry) = entry.filter(|entry| entry.hand >= copy.hop.hand) else {
        return (published.why != Leaving::Death, nothing);
    };
    if entry.hand > copy.hop.hand || entry.moved || entry.state.is_ended() {
        return (true, nothing);
    }
    if entry.leaving == Some(published) {
        return (true, confirm(entry, copy, now));
    }
    (published.why != Leaving::Death, nothing)
}
