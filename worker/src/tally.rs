//! What this worker counted and has not written yet.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millhand_broker::{Backend, Verdict};
use millhand_proto::protocol::Meeting;
use millhand_proto::{AttemptEnd, Core, Count, Executor, Leaving, QueueName, Receipt, State, Tally, TaskName};

/// How often what was counted is written.
pub(crate) const FLUSH: Duration = Duration::from_secs(10);

/// Minutes, queues and tasks that are kept while the store is away, beside what is being written; the
/// oldest are lost beyond.
const MOST: usize = 4096;

type Of = (u64, QueueName, TaskName);

/// Numbers, in memory until they are written.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    /// The oldest first.
    open: Mutex<BTreeMap<Of, Tally>>,
    /// What is being written. It is kept as it is, with its token, until it is known to be written.
    sent: tokio::sync::Mutex<Option<Sent>>,
}

/// Numbers that may have been written.
#[derive(Debug)]
struct Sent {
    token: u64,
    tallies: Vec<Tally>,
}

/// What an attempt, or a copy that was not run, counts as.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    counts: [Option<Count>; 3],
    run: Option<(Executor, Receipt)>,
}

impl Counted {
    /// As what the verdict on a run counts.
    pub(crate) fn of(verdict: &Verdict, executor: Executor) -> Self {
        let end = |count, receipt| Self {
            counts: [Some(count), None, None],
            run: Some((executor, receipt)),
        };
        match verdict {
            Verdict::Succeed { receipt, .. } => end(Count::Succeeded, *receipt),
            Verdict::Cancel { receipt, .. } => end(Count::Cancelled, *receipt),
            Verdict::Leave {
                successor,
                note,
                receipt,
                ..
            } => {
                let follows = match successor.why {
                    Leaving::Retry => Count::Retried,
                    Leaving::Snooze => Count::Snoozed,
                    Leaving::Death => Count::Dead,
                };
                let failed = note.as_ref().filter(|note| note.end != AttemptEnd::Snoozed);
                let crashed = failed.filter(|note| note.end == AttemptEnd::Crashed);
                Self {
                    counts: [
                        Some(follows),
                        failed.map(|_| Count::Failed),
                        crashed.map(|_| Count::Crashed),
                    ],
                    run: receipt.map(|receipt| (executor, receipt)),
                }
            }
            _ => Self::default(),
        }
    }

    /// As what a meeting counts that leads to no run.
    pub(crate) fn met(meeting: &Meeting) -> Self {
        let end = match meeting {
            Meeting::Ended(State::Cancelled) => Some(Count::Cancelled),
            Meeting::Ended(State::Expired) => Some(Count::Expired),
            Meeting::Die(_) => Some(Count::Dead),
            _ => None,
        };
        Self {
            counts: [end, None, None],
            run: None,
        }
    }
}

impl Tallies {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Of, Tally>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts it; `settle` is how long it took to store and acknowledge it.
    pub(crate) fn count(&self, minute: u64, core: &Core, counted: &Counted, settle: Duration) {
        if counted.counts == [None; 3] {
            return;
        }
        let mut open = self.open();
        let of = (minute, core.queue.clone(), core.task.clone());
        let new = || Tally::new(minute, core.queue.clone(), core.task.clone());
        let numbers = &mut open.entry(of).or_insert_with(new).numbers;
        for what in counted.counts.into_iter().flatten() {
            numbers.count(what);
        }
        if let Some((executor, receipt)) = &counted.run {
            numbers.record(*executor, receipt, settle);
        }
        if open.len() > MOST {
            open.pop_first();
        }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.open().is_empty() && self.sent.try_lock().is_ok_and(|sent| sent.is_none())
    }

    /// Writes what was counted. What may not have been written goes first, unchanged: under its token it
    /// counts once.
    pub(crate) async fn flush(&self, backend: &dyn Backend) {
        let mut sent = self.sent.lock().await;
        loop {
            if sent.is_none() {
                let tallies = split(std::mem::take(&mut *self.open()));
                let token = crate::crew::random();
                *sent = (!tallies.is_empty()).then_some(Sent { token, tallies });
            }
            let Some(Sent { token, tallies }) = &*sent else { return };
            if let Err(error) = backend.tally(*token, tallies.clone()).await {
                tracing::debug!(%error, "statistics could not be written; they are kept for the next time");
                return;
            }
            *sent = None;
        }
    }
}

/// What is to be written: what is kept by minutes, and what by tens of them.
fn split(open: BTreeMap<Of, Tally>) -> Vec<Tally> {
    let mut apart: BTreeMap<Of, Tally> = BTreeMap::new();
    let mut tallies: Vec<Tally> = open.into_values().collect();
    for tally in &mut tallies {
        let Some(profile) = tally.split() else { continue };
        let of = (profile.minute, profile.queue.clone(), profile.task.clone());
        match apart.entry(of) {
            Entry::Occupied(mut held) => held.get_mut().numbers.merge(&profile.numbers),
            Entry::Vacant(free) => drop(free.insert(profile)),
        }
    }
    tallies.extend(apart.into_values());
    tallies
}

#[cfg(test)]
mod tests {
    use millhand_broker::faults::{Door, Fault, Faulty};
    use millhand_broker::memory::Memory;
    use millhand_proto::{JobId, Successor, Timestamp, WorkerId};

    use super::*;

    fn core(task: &str) -> Core {
        let now = millhand_broker::Clock::system().now();
        let (queue, task) = (QueueName::new("q").unwrap(), TaskName::new(task).unwrap());
        Core::new(JobId::from_bytes([8; 16]), task, queue, now)
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_with_the_next_and_nothing_counts_twice() {
        let backend = Faulty::around(Memory::open().unwrap());
        let tallies = Tallies::default();
        let succeeded = Counted {
            counts: [Some(Count::Succeeded), None, None],
            run: Some((
                Executor::Thread,
                Receipt {
                    run: 5,
                    ..Receipt::default()
                },
            )),
        };
        let now = backend.now();
        let minute = Tally::minute_of(now);
        let counts = async || {
            let stats = backend.stats(now, now).await.unwrap();
            let counts = stats.iter().filter(|t| t.minute == minute);
            let counts = counts.map(|t| (t.numbers.get(Count::Succeeded), t.numbers.run.count()));
            counts.collect::<Vec<_>>()
        };
        tallies.count(minute, &core("t"), &succeeded, Duration::from_millis(1));
        backend.plan(Door::Tally, Fault::RequestLost, 1);
        tallies.flush(&*backend).await;
        assert_eq!(counts().await, []);
        tallies.count(minute, &core("t"), &succeeded, Duration::from_millis(1));
        tallies.flush(&*backend).await;
        assert_eq!(counts().await, [(2, 2)]);
        tallies.count(minute, &core("t"), &succeeded, Duration::from_millis(1));
        backend.plan(Door::Tally, Fault::AnswerLost, 2);
        tallies.flush(&*backend).await;
        assert_eq!(counts().await, [(3, 3)]);
        tallies.count(minute, &core("t"), &succeeded, Duration::from_millis(1));
        tallies.flush(&*backend).await;
        assert!(!tallies.is_empty());
        tallies.flush(&*backend).await;
        assert!(tallies.is_empty());
        assert_eq!(counts().await, [(4, 4)]);
        // Nothing is asked when there is nothing to write: this fault stays.
        backend.plan(Door::Tally, Fault::RequestLost, 1);
        tallies.flush(&*backend).await;
        assert_eq!(backend.left(), 1);
    }

    #[test]
    fn what_is_written_has_counts_by_minutes_and_profiles_by_tens_of_them() {
        let tallies = Tallies::default();
        let ran = Counted {
            counts: [Some(Count::Succeeded), None, None],
            run: Some((Executor::Process, Receipt::default())),
        };
        for minute in [1_009, 1_010, 1_019] {
            tallies.count(minute, &core("t"), &ran, Duration::from_millis(2));
        }
        let written = split(std::mem::take(&mut *tallies.open()));
        let sizes = written.iter().map(|tally| {
            let numbers = &tally.numbers;
            let runs = numbers.profile().map(|p| p.runs_on(Executor::Process));
            (tally.minute, numbers.ended(), numbers.run.count(), runs)
        });
        assert_eq!(
            sizes.collect::<Vec<_>>(),
            [
                (1_009, 1, 1, None),
                (1_010, 1, 1, None),
                (1_019, 1, 1, None),
                (1_000, 0, 0, Some(1)),
                (1_010, 0, 0, Some(2)),
            ]
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_stays() {
        let tallies = Tallies::default();
        let dead = Counted {
            counts: [Some(Count::Dead), None, None],
            run: None,
        };
        for minute in 0..u64::try_from(MOST).unwrap() + 10 {
            tallies.count(minute, &core("t"), &dead, Duration::ZERO);
        }
        assert_eq!(tallies.open().len(), MOST);
        assert_eq!(tallies.open().keys().map(|of| of.0).min(), Some(10));
    }

    #[test]
    fn a_failed_attempt_is_counted_beside_what_follows() {
        let leave = |why, end: Option<AttemptEnd>| Verdict::Leave {
            fence: None,
            successor: Successor {
                why,
                due: Timestamp::default(),
            },
            reason: None,
            note: end.map(|end| millhand_proto::AttemptNote {
                number: 1,
                started: Timestamp::default(),
                ended: Timestamp::default(),
                end,
                cause: None,
                error: None,
                worker: WorkerId::from_bytes([1; 16]),
                next: None,
            }),
            receipt: None,
        };
        let counts = |verdict| Counted::of(&verdict, Executor::Async).counts;
        for end in [AttemptEnd::Failed, AttemptEnd::TimedOut, AttemptEnd::Crashed] {
            assert_eq!(
                counts(leave(Leaving::Retry, Some(end))),
                [
                    Some(Count::Retried),
                    Some(Count::Failed),
                    (end == AttemptEnd::Crashed).then_some(Count::Crashed)
                ]
            );
        }
        assert_eq!(
            counts(leave(Leaving::Snooze, Some(AttemptEnd::Snoozed))),
            [Some(Count::Snoozed), None, None]
        );
        assert_eq!(counts(leave(Leaving::Death, None)), [Some(Count::Dead), None, None]);
        assert_eq!(counts(Verdict::Acknowledge), [None, None, None]);
    }
}
