use super::{Standing, Written, adopt, standing};
use crate::outcome::AttemptEnd;
use crate::receipt::Receipt;
use crate::record::{AttemptNote, Entry, Fence, Leaving, Successor};
use crate::state::State;
use crate::wire::JobCopy;

/// Decides a successor: the entry says *leaving* until its confirm is written.
///
/// Without a fence the job did not run (it dies of its past); then any running claim stands above.
#[must_use]
pub fn leave(
    entry: Option<Entry>,
    copy: &JobCopy,
    fence: Option<Fence>,
    successor: Successor,
    reason: Option<&str>,
    note: Option<AttemptNote>,
    receipt: Option<Receipt>,
) -> (Written, Option<Entry>) {
    if entry
        .as_ref()
        .is_some_and(|e| e.hand >= copy.hop.hand && e.state.is_ended())
    {
        // Ended from elsewhere (a cancel met past the deadline): no successor may be published.
        return (Written::Stale, None);
    }
    let standing = match fence {
        Some(fence) => standing(entry, copy, fence),
        None => unowned(entry, copy, successor),
    };
    let mut entry = match standing {
        Standing::Stale => return (Written::Stale, None),
        Standing::Done => return (Written::Already, None),
        Standing::Mine(entry) => *entry,
    };
    if successor.why != Leaving::Snooze && note.is_some() {
        entry.attempts = copy.attempt();
    }
    if let Some(note) = note {
        if note.end == AttemptEnd::Crashed {
            entry.crashes += 1;
        }
        entry.note(note);
    }
    entry.state = match successor.why {
        Leaving::Retry => State::Retrying,
        Leaving::Snooze => State::Scheduled,
        // Dead only after the confirm: until then people must not act on it.
        Leaving::Death => State::Retrying,
    };
    entry.reason = reason.map(str::to_owned);
    entry.receipt = receipt.or(entry.receipt);
    entry.leaving = Some(successor);
    entry.deadline = None;
    (Written::Applied, Some(entry))
}

/// What a death without a run finds: whoever runs the job, or has decided otherwise, stands above
/// it, and holds a copy of its own.
fn unowned(entry: Option<Entry>, copy: &JobCopy, successor: Successor) -> Standing {
    let entry = match entry {
        Some(entry) if entry.hand >= copy.hop.hand => entry,
        older => adopt(older, copy),
    };
    if entry.hand > copy.hop.hand || entry.moved || entry.state.is_ended() || entry.state == State::Running {
        return Standing::Stale;
    }
    match entry.leaving {
        Some(decided) if decided == successor => Standing::Done,
        Some(_) => Standing::Stale,
        None => Standing::Mine(Box::new(entry)),
    }
}
