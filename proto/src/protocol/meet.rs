use std::time::Duration;

use super::{Suspicion, adopt, park, suspicion};
use crate::id::WorkerId;
use crate::limits;
use crate::outcome::AttemptEnd;
use crate::record::{AttemptNote, Entry, Fence, Successor};
use crate::sabotage::{Bug, planted};
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::JobCopy;

/// What the worker that meets a copy knows.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Who meets it.
    pub worker: WorkerId,
    /// Whether the entry's owner is alive; ask only for a running entry of another owner.
    pub owner_alive: bool,
    /// Whether this worker runs the job at this moment.
    pub running_here: bool,
    /// Whether a suspect runs in this worker, or whether one does was not looked: none is claimed beside it.
    pub suspect_here: bool,
    /// Why this worker cannot run the job, if it cannot: an unknown task, version or field.
    pub not_understood: Option<String>,
    /// The hard limit that will be in force.
    pub hard_limit: Option<Duration>,
    /// The token of this claim; the same when the call is repeated.
    pub token: u64,
    /// The time by the store's clock.
    pub now: Timestamp,
}

impl Situation {
    /// That of a worker in whose way nothing stands: it knows the task and runs nothing else, and no owner lives.
    #[must_use]
    pub const fn new(worker: WorkerId, token: u64, now: Timestamp) -> Self {
        Self {
            worker,
            owner_alive: false,
            running_here: false,
            suspect_here: false,
            not_understood: None,
            hard_limit: None,
            token,
            now,
        }
    }
}

/// What to do with the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Run it: the claim is written.
    Run {
        /// What its end must be written with.
        fence: Fence,
        /// Whether it must run with no other suspect beside it.
        suspect: bool,
        /// How often its process crashed before.
        crashes: u32,
    },
    /// Acknowledge: the job ended, or left by a confirmed copy.
    Drop,
    /// Acknowledge: cancelled or expired just now, as the entry says.
    Ended(State),
    /// Publish this decided successor again, confirm, write the confirm, acknowledge.
    Replay(Successor),
    /// Its owner is alive: release until then.
    Busy(Timestamp),
    /// It is a suspect, and not claimed: release until then, or claim it where it may run.
    Suspect(Timestamp),
    /// Not due: release until then.
    NotDue(Timestamp),
    /// Not understood here: release until then.
    Parked(Timestamp),
    /// It must die without a run, for this reason.
    Die(&'static str),
}

/// A worker meets a copy, with a slot in its hand.
#[must_use]
pub fn meet(entry: Option<Entry>, copy: &JobCopy, with: &Situation) -> (Meeting, Option<Entry>) {
    if planted(Bug::DropOnMissing) && entry.is_none() {
        return (Meeting::Drop, None);
    }
    let mut entry = match entry {
        Some(entry) if entry.hand >= copy.hop.hand => entry,
        older => adopt(older, copy),
    };
    if entry.hand > copy.hop.hand || entry.state.is_ended() || entry.moved {
        return (Meeting::Drop, None);
    }
    if let Some(successor) = entry.leaving {
        return (Meeting::Replay(successor), None);
    }
    let running = entry.state == State::Running;
    let same_call = running && entry.token == with.token;
    if running && !same_call {
        let here = entry.owner == Some(with.worker);
        let in_time = entry.deadline.is_none_or(|deadline| with.now < deadline);
        if (here && with.running_here) || (!here && with.owner_alive && in_time) {
            // A run that has just begun may be that of a worker that died a moment ago, whatever waits the
            // copy has behind it.
            let young = entry
                .started
                .is_some_and(|started| with.now.since(started) < limits::LEASE);
            let wait = if copy.hop.busy == 0 || young {
                limits::LEASE + Duration::from_secs(1)
            } else {
                limits::LEASE
                    .saturating_mul(1 << copy.hop.busy.min(2))
                    .min(Duration::from_secs(60))
            };
            return (Meeting::Busy(with.now.plus(wait)), None);
        }
    }
    if same_call {
        // Asked again because the answer was lost, or by its owner to move the deadline.
        entry.deadline = Some(deadline(with));
        return leave_to_run(entry);
    }
    if entry.cancel_asked.is_some() && !running {
        end(&mut entry, State::Cancelled, "cancelled", with.now);
        return (Meeting::Ended(State::Cancelled), Some(entry));
    }
    if entry.cancel_asked.is_some() {
        // It was asked for while a worker ran it that is gone.
        lost(&mut entry, with.now);
        end(&mut entry, State::Cancelled, "cancelled", with.now);
        return (Meeting::Ended(State::Cancelled), Some(entry));
    }
    if copy.core.expires.is_some_and(|expires| expires <= with.now) {
        end(&mut entry, State::Expired, "expired", with.now);
        return (Meeting::Ended(State::Expired), Some(entry));
    }
    if let Some(due) = copy.due().filter(|due| *due > with.now) {
        return (Meeting::NotDue(due), None);
    }
    if running {
        // From here on whatever its former owner still writes is stale, also if it is parked now.
        entry.deaths = entry.deaths.max(copy.hop.deaths) + 1;
        lost(&mut entry, with.now);
        entry.claims += 1;
        entry.token = with.token;
    }
    if let Some(why) = &with.not_understood {
        return park(entry, copy, why, with.now);
    }
    match suspicion(entry.deaths) {
        Suspicion::Guilty => {
            // Still unowned: the death is written by `leave` like any other.
            entry.state = State::Queued;
            (Meeting::Die("worker_lost"), Some(entry))
        }
        // A suspect that waited with its claim would be found running when the other kills the worker.
        Suspicion::Suspect if with.suspect_here => {
            entry.state = State::Queued;
            entry.owner = None;
            entry.deadline = None;
            let until = with.now.plus(limits::SUSPECT_WAIT);
            (Meeting::Suspect(until), running.then_some(entry))
        }
        Suspicion::None | Suspicion::Suspect => {
            if !running {
                entry.claims += 1;
                entry.token = with.token;
            }
            if entry.args_hash != copy.args_hash() {
                entry.conflicts = entry.conflicts.saturating_add(1);
            }
            entry.state = State::Running;
            entry.owner = Some(with.worker);
            entry.deadline = Some(deadline(with));
            entry.started = Some(with.now);
            entry.due = None;
            entry.parked = None;
            leave_to_run(entry)
        }
    }
}

fn leave_to_run(entry: Entry) -> (Meeting, Option<Entry>) {
    let suspect = suspicion(entry.deaths) == Suspicion::Suspect;
    (
        Meeting::Run {
            fence: entry.fence(),
            suspect,
            crashes: entry.crashes,
        },
        Some(entry),
    )
}

/// When the run that begins, or goes on, now is taken for lost.
fn deadline(with: &Situation) -> Timestamp {
    let hold = with.hard_limit.map_or(limits::DEADLINE_OPEN, |hard| {
        hard.saturating_add(limits::DEADLINE_GRACE)
    });
    with.now.plus(hold)
}

fn end(entry: &mut Entry, state: State, reason: &str, now: Timestamp) {
    entry.state = state;
    entry.reason = Some(reason.to_owned());
    entry.ended = Some(now);
    entry.due = None;
}

/// Notes the attempt of a worker that is gone.
fn lost(entry: &mut Entry, now: Timestamp) {
    if let (Some(worker), Some(started)) = (entry.owner, entry.started) {
        let number = entry.attempts + 1;
        entry.note(AttemptNote {
            number,
            started,
            ended: now,
            end: AttemptEnd::WorkerLost,
            cause: None,
            error: None,
            worker,
            next: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{JobId, Mailbox};
    use crate::name::{QueueName, TaskName};
    use crate::wire::Core;

    #[test]
    fn a_suspect_that_finds_another_one_is_not_claimed_and_counts_no_death_for_it() {
        let at = Timestamp::MIN_WIRE;
        let task = TaskName::new("act").unwrap();
        let copy = JobCopy::first(Core::new(JobId::given("a"), task, QueueName::default(), at));
        let with = |n: u8, suspect_here| Situation {
            suspect_here,
            ..Situation::new(Mailbox::from_random([n; 16]), u64::from(n), at)
        };
        // Two workers die under it.
        let mut entry = None;
        for n in 1..=2 {
            let (meeting, after) = meet(entry, &copy, &with(n, true));
            assert!(matches!(meeting, Meeting::Run { suspect: false, .. }), "{meeting:?}");
            entry = after;
        }
        let (meeting, after) = meet(entry, &copy, &with(3, true));
        assert_eq!(meeting, Meeting::Suspect(at.plus(limits::SUSPECT_WAIT)));
        let after = after.unwrap();
        assert_eq!((after.deaths, after.state, after.owner), (2, State::Queued, None));
        // That worker dies too, and another one has a suspect of its own.
        let (meeting, unchanged) = meet(Some(after.clone()), &copy, &with(4, true));
        assert_eq!(
            (meeting, unchanged),
            (Meeting::Suspect(at.plus(limits::SUSPECT_WAIT)), None)
        );
        let (meeting, after) = meet(Some(after), &copy, &with(5, false));
        assert!(matches!(meeting, Meeting::Run { suspect: true, .. }), "{meeting:?}");
        assert_eq!(after.unwrap().deaths, 2);
    }

    #[test]
    fn a_copy_that_waited_before_waits_no_longer_for_a_run_that_has_just_begun() {
        let at = Timestamp::MIN_WIRE;
        let task = TaskName::new("act").unwrap();
        let mut copy = JobCopy::first(Core::new(JobId::given("a"), task, QueueName::default(), at));
        let with = |n: u8, seconds| Situation {
            owner_alive: true,
            ..Situation::new(
                Mailbox::from_random([n; 16]),
                u64::from(n),
                at.plus(Duration::from_secs(seconds)),
            )
        };
        let (_, entry) = meet(None, &copy, &with(1, 0));
        copy.hop.busy = 2;
        let waits = |seconds| match meet(entry.clone(), &copy, &with(2, seconds)) {
            (Meeting::Busy(until), None) => until.since(with(2, seconds).now),
            other => panic!("{other:?}"),
        };
        assert_eq!(waits(1), limits::LEASE + Duration::from_secs(1));
        assert_eq!(
            waits(limits::LEASE.as_secs() - 1),
            limits::LEASE + Duration::from_secs(1)
        );
        assert_eq!(waits(limits::LEASE.as_secs()), Duration::from_secs(60));
    }
}
