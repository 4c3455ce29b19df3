use std::time::Duration;

use crate::record::Entry;
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// The watch copy of a job that runs long: same hand, same record; once it is confirmed the job
/// no longer holds its parcel.
#[must_use]
pub fn detach(entry: Option<Entry>, copy: &JobCopy, lease_left: Duration, now: Timestamp) -> (JobCopy, Option<Entry>) {
    let mut watch = copy.clone();
    watch.hop.due = Some(now.plus(lease_left + Duration::from_secs(1)));
    let entry = entry
        .filter(|e| e.state == State::Running && e.hand == copy.hop.hand)
        .map(|mut entry| {
            entry.detached = true;
            entry
        });
    (watch, entry)
}

/// A watch or busy copy that found its owner alive: it comes back after 15 s, doubling to 60 s.
#[must_use]
pub fn watch_again(copy: &JobCopy, until: Timestamp) -> JobCopy {
    let mut again = copy.clone();
    again.hop.busy = copy.hop.busy.saturating_add(1);
    again.hop.due = Some(until);
    again
}
