use crate::record::Entry;
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// Why an operator's retry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryRefused {
    /// Only dead jobs: the arguments of others are not kept.
    #[error("the job is {0}; only dead jobs can be retried")]
    NotDead(State),
}

/// An operator's retry of a dead job: the copy of the next hand, the old entry, and the entry at
/// the next hand (`None` when it is the same place, and the first is to be written).
///
/// # Errors
/// When the job is not dead.
pub fn retry(entry: &Entry, copy: &JobCopy, now: Timestamp) -> Result<(JobCopy, Entry, Option<Entry>), RetryRefused> {
    if entry.state != State::Dead {
        return Err(RetryRefused::NotDead(entry.state));
    }
    let mut next = copy.clone();
    next.hop.hand = entry.hand + 1;
    next.hop.attempts = entry.attempts;
    next.hop.attempts_before = entry.attempts;
    next.hop.due = Some(now);
    next.hop.deaths = 0;
    next.hop.parked = None;
    next.hop.busy = 0;
    next.hop.expected_version = None;
    let mut queued = entry.clone();
    queued.hand = next.hop.hand;
    queued.state = State::Queued;
    queued.claims = 0;
    queued.token = 0;
    queued.owner = None;
    queued.deaths = 0;
    queued.crashes = 0;
    queued.ended = None;
    queued.reason = None;
    queued.due = Some(now);
    queued.cancel_asked = None;
    let id = copy.id();
    if id.record_at(entry.hand) == id.record_at(queued.hand) {
        return Ok((next, queued, None));
    }
    queued.index = 0;
    let mut old = entry.clone();
    old.moved = true;
    Ok((next, old, Some(queued)))
}
