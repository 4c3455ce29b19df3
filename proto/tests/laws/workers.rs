//! What workers do, one step at a time, and how they end.

use std::time::Duration;

use millhand_proto::protocol::{
    Confirmed, Decision, End, Ended, Meeting, Situation, Suspicion, Written, confirm_published, decide, detach, finish,
    give_back, leave, meet, must_split, parked_copy, split, suspicion, watch_again,
};
use millhand_proto::{
    AttemptNote, Entry, ErrorText, Fence, JobCopy, Leaving, Outcome, Parcel, Payload, Receipt, RecordKey, RetryPolicy,
    State, Successor, Timestamp, WorkerId,
};

use super::{SLOTS, World, mix};

/// Where a worker stands with one copy.
#[derive(Clone, Debug)]
enum Step {
    Meet,
    Run {
        fence: Fence,
        crashes: u32,
        started: Timestamp,
        deadline: Timestamp,
    },
    Finish {
        fence: Fence,
        end: End,
    },
    Leave {
        fence: Option<Fence>,
        successor: Successor,
        reason: Option<String>,
        note: Option<AttemptNote>,
    },
    Publish {
        successor: Successor,
    },
    Confirm {
        successor: Successor,
    },
    GiveBack {
        fence: Fence,
    },
    Release {
        copy: JobCopy,
        visible: Timestamp,
    },
    Acknowledge,
}

/// One copy in a worker's hands; without a message it was detached, or its connection was lost.
#[derive(Clone)]
pub(super) struct Work {
    message: Option<(u64, usize)>,
    copy: JobCopy,
    step: Step,
}

pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) work: Vec<Work>,
}

pub(super) fn worker_id(number: u64) -> WorkerId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    WorkerId::from_bytes(bytes)
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        retries: 3,
        ..RetryPolicy::default()
    }
}

impl World {
    pub(super) fn deliver(&mut self, worker: usize, which: u32) {
        if self.workers[worker].work.len() >= SLOTS {
            return;
        }
        let free: Vec<u64> = self
            .queue
            .iter()
            .filter(|(_, m)| m.held.is_none() && m.visible <= self.now)
            .map(|(n, _)| *n)
            .collect();
        if free.is_empty() {
            return;
        }
        let number = free[which as usize % free.len()];
        let message = self.queue.get_mut(&number).unwrap();
        message.held = Some(worker);
        let jobs = message.jobs.clone();
        let redelivered = message.redelivered;
        let parcel = Parcel::several(jobs.clone()).unwrap();
        if must_split(&parcel, redelivered) {
            for part in split(jobs) {
                self.publish(part.into_jobs(), self.now);
            }
            self.queue.remove(&number);
            return;
        }
        for (index, copy) in jobs.into_iter().enumerate() {
            self.workers[worker].work.push(Work {
                message: Some((number, index)),
                copy,
                step: Step::Meet,
            });
        }
    }

    /// One step of one piece of work. `choice` decides what chance decides.
    pub(super) fn step(&mut self, worker: usize, which: usize, choice: u32, calm: bool) {
        let len = self.workers[worker].work.len();
        if len == 0 {
            return;
        }
        let which = which % len;
        let work = self.workers[worker].work[which].clone();
        match self.advance(worker, which, &work, choice, calm) {
            Some(step) => self.workers[worker].work[which].step = step,
            None => {
                self.workers[worker].work.remove(which);
            }
        }
    }

    fn advance(&mut self, worker: usize, which: usize, work: &Work, choice: u32, calm: bool) -> Option<Step> {
        let copy = &work.copy;
        let id = copy.id();
        let key = id.record_at(copy.hop.hand);
        let entry = self.entry(key, id);
        let me = self.workers[worker].id;
        Some(match work.step.clone() {
            Step::Meet => self.meet(worker, which, copy, entry, !calm && choice % 16 == 0),
            Step::Run {
                fence,
                crashes,
                started,
                ..
            } => {
                if !calm && choice % 8 == 0 {
                    // It runs on; its owner may let its parcel go.
                    if work.message.is_some() {
                        let (watch, entry) = detach(entry, copy, Duration::from_secs(15), self.now);
                        let visible = watch.due().unwrap();
                        self.publish(vec![watch], visible);
                        if let Some(entry) = entry {
                            self.put(key, id, entry);
                        }
                        self.acknowledge(work.message);
                        self.workers[worker].work[which].message = None;
                    }
                    return Some(work.step.clone());
                }
                let error = ErrorText::new("no");
                let outcome = match (choice / 8) % 12 {
                    _ if calm => Outcome::Succeeded(Payload::encode(&1).unwrap()),
                    0..=2 => Outcome::Succeeded(Payload::encode(&1).unwrap()),
                    3..=5 => Outcome::Failed { error, retry_in: None },
                    6 => Outcome::Fatal {
                        reason: "failed".into(),
                        error,
                    },
                    7 => Outcome::Snoozed(Duration::from_secs(20)),
                    8 => Outcome::Cancelled,
                    9 => Outcome::TimedOut(millhand_proto::TimeLimit::Hard(Duration::from_secs(1))),
                    10 => Outcome::Crashed {
                        cause: millhand_proto::CrashCause::Memory,
                        error,
                    },
                    _ => Outcome::Interrupted,
                };
                let cancel_asked = entry.is_some_and(|e| e.cancel_asked.is_some());
                let ended = Ended {
                    worker: me,
                    started,
                    now: self.now,
                    crashes,
                    most_crashes: millhand_proto::limits::CRASHES,
                    cancel_asked,
                    seed: u64::from(choice),
                };
                match decide(outcome, copy, policy(), ended) {
                    Decision::Succeed(result) => Step::Finish {
                        fence,
                        end: End::Succeeded(Some(result)),
                    },
                    Decision::Cancel(note) => Step::Finish {
                        fence,
                        end: End::Cancelled(Some(note)),
                    },
                    Decision::Leave {
                        successor,
                        reason,
                        note,
                    } => Step::Leave {
                        fence: Some(fence),
                        successor,
                        reason,
                        note: Some(note),
                    },
                    Decision::GiveBack => Step::GiveBack { fence },
                }
            }
            Step::Finish { fence, end } => {
                let (written, after) = finish(entry, copy, fence, end.clone(), Receipt::default(), self.now);
                if let Some(after) = after {
                    assert_eq!(written, Written::Applied);
                    let known = self.jobs.get_mut(&id).unwrap();
                    let results = known.results.entry(copy.hop.hand).or_default();
                    *results += 1;
                    assert!(
                        !self.clean || *results == 1,
                        "{id} has two results at hand {}",
                        copy.hop.hand
                    );
                    self.put(key, id, after.clone());
                    let again = finish(Some(after), copy, fence, end, Receipt::default(), self.now);
                    assert_eq!(again, (Written::Already, None), "a repeated finish does nothing");
                }
                match written {
                    Written::Stale => Step::Meet,
                    Written::Already | Written::Applied => Step::Acknowledge,
                }
            }
            Step::Leave {
                fence,
                successor,
                reason,
                note,
            } => {
                let running = entry.as_ref().filter(|e| e.state == State::Running).map(Entry::fence);
                let call = |entry| leave(entry, copy, fence, successor, reason.as_deref(), note.clone(), None);
                let (written, after) = call(entry);
                if let Some(after) = after {
                    assert!(
                        !self.clean || running.is_none_or(|r| Some(r) == fence),
                        "{id} leaves from under its owner"
                    );
                    self.put(key, id, after.clone());
                    assert_eq!(
                        call(Some(after)),
                        (Written::Already, None),
                        "a repeated leave does nothing"
                    );
                }
                match written {
                    // Met again, never just dropped: who wrote past it may hold no copy of it.
                    Written::Stale => Step::Meet,
                    Written::Already | Written::Applied => Step::Publish { successor },
                }
            }
            Step::Publish { successor } => {
                let next = successor.copy(copy, Some("no"));
                if successor.why == Leaving::Death {
                    self.dead.insert(id, next);
                } else {
                    self.publish(vec![next], successor.due);
                }
                Step::Confirm { successor }
            }
            Step::Confirm { successor } => {
                if self.confirm(key, entry, copy, successor) {
                    Step::Acknowledge
                } else {
                    Step::Meet
                }
            }
            Step::GiveBack { fence } => {
                let (written, after) = give_back(entry, copy, fence, me, self.now);
                if let Some(after) = after {
                    self.put(key, id, after);
                }
                match written {
                    // Met again, never just dropped: who wrote past it may hold no copy of it.
                    Written::Stale => Step::Meet,
                    Written::Already | Written::Applied => Step::Release {
                        copy: copy.clone(),
                        visible: self.now,
                    },
                }
            }
            Step::Release { copy, visible } => {
                self.publish(vec![copy], visible);
                Step::Acknowledge
            }
            Step::Acknowledge => {
                self.acknowledge(work.message);
                return None;
            }
        })
    }

    fn confirm(&mut self, key: RecordKey, entry: Option<Entry>, copy: &JobCopy, published: Successor) -> bool {
        let id = copy.id();
        let (acknowledge, Confirmed { here, own }) = confirm_published(entry, copy, published, self.now);
        if let Some(own) = own {
            let place = id.record_at(own.hand);
            if self.entry(place, id).is_none_or(|there| there.hand < own.hand) {
                self.put(place, id, own);
            }
        }
        if let Some(here) = here {
            self.put(key, id, here);
        }
        acknowledge
    }

    fn meet(&mut self, worker: usize, which: usize, copy: &JobCopy, entry: Option<Entry>, unknown: bool) -> Step {
        let id = copy.id();
        let key = id.record_at(copy.hop.hand);
        let owner = entry.as_ref().and_then(|e| e.owner);
        let suspect_here = self.workers[worker].work.iter().enumerate().any(|(n, w)| {
            let entry = || self.entry(w.copy.id().record_at(w.copy.hop.hand), w.copy.id());
            let suspect = |entry: Entry| suspicion(entry.deaths) == Suspicion::Suspect;
            n != which && matches!(w.step, Step::Run { .. }) && entry().is_some_and(suspect)
        });
        let situation = Situation {
            worker: self.workers[worker].id,
            owner_alive: self.workers.iter().any(|w| Some(w.id) == owner),
            running_here: self.workers[worker].work.iter().enumerate().any(|(n, w)| {
                let holds = matches!(w.step, Step::Run { .. } | Step::Finish { .. } | Step::GiveBack { .. })
                    || matches!(w.step, Step::Leave { fence: Some(_), .. });
                n != which && w.copy.id() == id && holds
            }),
            suspect_here,
            not_understood: unknown.then(|| "unknown".to_owned()),
            hard_limit: (copy.id().index() % 2 == 0).then_some(Duration::from_secs(30)),
            token: mix(self.next()),
            now: self.now,
        };
        let (meeting, after) = meet(entry, copy, &situation);
        if let Some(after) = after.clone() {
            self.put(key, id, after);
        }
        match meeting {
            Meeting::Run { fence, crashes, .. } => {
                let entry = after.unwrap();
                let repeated = meet(Some(entry.clone()), copy, &situation);
                assert!(
                    matches!(repeated.0, Meeting::Run { fence: again, .. } if again == fence),
                    "a repeated claim is one claim"
                );
                self.runs += 1;
                if self.clean {
                    assert_eq!(self.jobs[&id].ended, None, "{id} ended and runs again");
                    for (other, work) in self
                        .workers
                        .iter()
                        .enumerate()
                        .flat_map(|(n, w)| w.work.iter().map(move |w| (n, w)))
                    {
                        if let Step::Run { deadline, .. } = &work.step {
                            assert!(
                                work.copy.id() != id || *deadline <= self.now,
                                "{id} runs in {other} and {worker}"
                            );
                        }
                    }
                }
                Step::Run {
                    fence,
                    crashes,
                    started: self.now,
                    deadline: entry.deadline.unwrap(),
                }
            }
            Meeting::Drop | Meeting::Ended(_) => Step::Acknowledge,
            Meeting::Replay(successor) => Step::Publish { successor },
            Meeting::Busy(until) | Meeting::Suspect(until) => Step::Release {
                copy: watch_again(copy, until),
                visible: until,
            },
            Meeting::NotDue(until) => Step::Release {
                copy: copy.clone(),
                visible: until,
            },
            Meeting::Parked(until) => Step::Release {
                copy: parked_copy(copy, until, self.now),
                visible: until,
            },
            Meeting::Die(reason) => {
                let successor = Successor {
                    why: Leaving::Death,
                    due: self.now,
                };
                Step::Leave {
                    fence: None,
                    successor,
                    reason: Some(reason.to_owned()),
                    note: None,
                }
            }
        }
    }

    /// The process is gone: what it held comes again, and its name never does.
    pub(super) fn crash(&mut self, worker: usize) {
        self.free_messages_of(worker);
        let number = self.next() + 1000;
        self.workers[worker] = Worker {
            id: worker_id(number),
            work: vec![],
        };
    }

    /// The connection to the queue is gone: what runs goes on, its acknowledgement is dropped.
    pub(super) fn disconnect(&mut self, worker: usize) {
        self.free_messages_of(worker);
        let work = &mut self.workers[worker].work;
        work.retain(|w| !matches!(w.step, Step::Meet));
        work.iter_mut().for_each(|w| w.message = None);
    }
}
