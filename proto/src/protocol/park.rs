use std::time::Duration;

use super::Meeting;
use crate::limits;
use crate::record::{Entry, ParkNote};
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::{JobCopy, Parked};

/// A worker does not know the job's task, version or a field that must be understood: back it
/// goes for 5 s, doubling to 60 s, no attempt counted; after a day it dies.
#[must_use]
pub fn park(mut entry: Entry, copy: &JobCopy, why: &str, now: Timestamp) -> (Meeting, Option<Entry>) {
    let before = copy.hop.parked.unwrap_or(Parked { since: now, times: 0 });
    if now.since(before.since) >= limits::PARK_TOTAL {
        // Nobody runs it (an owner that is gone is none): the death is written by `leave`.
        entry.state = State::Queued;
        return (Meeting::Die("parked_too_long"), Some(entry));
    }
    entry.state = State::Queued;
    entry.due = None;
    entry.parked = Some(ParkNote {
        since: before.since,
        times: before.times + 1,
        why: why.chars().take(256).collect(),
    });
    (Meeting::Parked(now.plus(wait(before.times))), Some(entry))
}

/// The copy that goes back.
#[must_use]
pub fn parked_copy(copy: &JobCopy, until: Timestamp, now: Timestamp) -> JobCopy {
    let mut copy = copy.clone();
    let before = copy.hop.parked.unwrap_or(Parked { since: now, times: 0 });
    copy.hop.parked = Some(Parked {
        since: before.since,
        times: before.times.saturating_add(1),
    });
    copy.hop.due = Some(until);
    copy
}

fn wait(times: u32) -> Duration {
    limits::PARK_FIRST
        .saturating_mul(1 << times.min(4))
        .min(limits::PARK_LONGEST)
}
