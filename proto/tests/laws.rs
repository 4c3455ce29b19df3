//! The laws of a job's life, held against random histories.
//!
//! A small world (queue, store, dead queue, workers, clock) applies the protocol's functions as a
//! back end does, one step at a time; between any two steps a worker may crash, and the store may
//! lose its memory. Beside it stands a plain model: which jobs were accepted, and how they ended.
#![allow(clippy::unwrap_used, clippy::manual_is_multiple_of, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::protocol::{
    Cancel, Confirmed, Decision, End, Ended, Meeting, Situation, Suspicion, Written, cancel, confirm_published, decide,
    detach, finish, give_back, leave, meet, must_split, parked_copy, retry, split, suspicion, watch_again,
};
use millhand_proto::{
    AttemptNote, Class, Core, Entry, ErrorText, Fence, JobCopy, JobId, Leaving, Outcome, Parcel, Payload, QueueName,
    Receipt, Record, RecordKey, RetryPolicy, State, Successor, TaskName, Timestamp, WorkerId,
};
use proptest::prelude::*;

const WORKERS: usize = 3;
const SLOTS: usize = 5;

/// A message in the queue, free or held by a worker.
#[derive(Clone)]
struct Message {
    jobs: Vec<JobCopy>,
    /// Jobs that no longer hold the message, since it was delivered last.
    done: Vec<bool>,
    held: Option<usize>,
    redelivered: u32,
    visible: Timestamp,
}

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
struct Work {
    message: Option<(u64, usize)>,
    copy: JobCopy,
    step: Step,
}

struct Worker {
    id: WorkerId,
    work: Vec<Work>,
}

/// What the model knows of an accepted job.
struct Known {
    first: JobCopy,
    ended: Option<State>,
    /// Results written, by hand.
    results: HashMap<u32, u32>,
}

type Store = HashMap<RecordKey, Record>;

struct World {
    now: Timestamp,
    counter: u64,
    queue: BTreeMap<u64, Message>,
    dead: HashMap<JobId, JobCopy>,
    store: Store,
    snapshots: Vec<Store>,
    workers: Vec<Worker>,
    jobs: BTreeMap<JobId, Known>,
    /// The store has kept everything so far.
    clean: bool,
    runs: u32,
}

fn worker_id(number: u64) -> WorkerId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    WorkerId::from_bytes(bytes)
}

fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        retries: 3,
        ..RetryPolicy::default()
    }
}

impl World {
    fn new() -> Self {
        Self {
            now: Timestamp::from_micros(1_790_000_000_000_000),
            counter: 0,
            queue: BTreeMap::new(),
            dead: HashMap::new(),
            store: HashMap::new(),
            snapshots: vec![],
            workers: (0..WORKERS as u64)
                .map(|n| Worker {
                    id: worker_id(n),
                    work: vec![],
                })
                .collect(),
            jobs: BTreeMap::new(),
            clean: true,
            runs: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    // The queue.

    fn publish(&mut self, jobs: Vec<JobCopy>, visible: Timestamp) {
        let number = self.next();
        let done = vec![false; jobs.len()];
        self.queue.insert(
            number,
            Message {
                jobs,
                done,
                held: None,
                redelivered: 0,
                visible,
            },
        );
    }

    fn acknowledge(&mut self, message: Option<(u64, usize)>) {
        let Some((number, index)) = message else { return };
        let message = self.queue.get_mut(&number).unwrap();
        message.done[index] = true;
        if message.done.iter().all(|d| *d) {
            self.queue.remove(&number);
        }
    }

    fn free_messages_of(&mut self, worker: usize) {
        for message in self.queue.values_mut().filter(|m| m.held == Some(worker)) {
            message.held = None;
            message.redelivered += 1;
            message.done.fill(false);
        }
    }

    // The store.

    fn entry(&self, key: RecordKey, id: JobId) -> Option<Entry> {
        self.store.get(&key)?.entry(key, id).cloned()
    }

    /// Where the highest hand decided so far lives.
    fn newest(&self, id: JobId) -> Option<(RecordKey, Entry)> {
        let (first, own) = (id.record_at(0), id.record_at(1));
        let own = self.entry(own, id).map(|e| (own, e));
        let first = self.entry(first, id).map(|e| (first, e));
        match (first, own) {
            (Some(first), Some(own)) => Some(if own.1.hand >= first.1.hand { own } else { first }),
            (first, own) => first.or(own),
        }
    }

    /// The swap; every write goes through here and is held against the laws.
    fn put(&mut self, key: RecordKey, id: JobId, entry: Entry) {
        if let Some(old) = self.entry(key, id) {
            assert!(
                entry.hand >= old.hand,
                "the hand of {id} falls from {} to {}",
                old.hand,
                entry.hand
            );
            if entry.hand == old.hand {
                let legal = !self.clean || old.state.may_become(entry.state);
                assert!(legal, "{id}: {} becomes {} at one hand", old.state, entry.state);
                assert!(entry.claims >= old.claims, "claims of {id} fall");
                assert!(!old.moved || entry.moved, "{id} comes back to the record that it left");
            } else if self.clean && !old.moved {
                let ended = matches!(old.state, State::Succeeded | State::Cancelled | State::Expired);
                assert!(!ended, "{id} had {} and gets a later hand", old.state);
            }
        }
        if entry.state.is_ended() && !entry.moved {
            let known = self.jobs.get_mut(&id).unwrap();
            if self.clean {
                let before = known.ended.unwrap_or(entry.state);
                assert_eq!(before, entry.state, "{id} has two recorded ends");
            }
            if entry.state == State::Dead {
                assert!(self.dead.contains_key(&id), "{id} is dead and not in the dead queue");
            }
            known.ended = Some(entry.state);
        }
        let record = self
            .store
            .entry(key)
            .or_insert_with(|| Record::new(QueueName::default(), Class::Normal));
        record.put(entry);
    }

    // What people do.

    fn enqueue(&mut self, jobs: u32, how: u32) {
        let random = mix(self.next());
        let given = how % 4 == 0;
        let expires = (how % 8 == 1).then(|| self.now.plus(Duration::from_secs(3600)));
        let not_before = (how % 8 == 2).then(|| self.now.plus(Duration::from_secs(90)));
        let jobs = if given { 1 } else { 1 + u16::try_from(jobs % 4).unwrap() };
        let core = |index| Core {
            id: if given {
                JobId::given(&format!("job {random}"))
            } else {
                JobId::minted(self.now, random, index)
            },
            task: TaskName::new("task").unwrap(),
            args: Bytes::from_static(&[0xc0]),
            codec: 0,
            task_version: 0,
            queue: QueueName::default(),
            class: Class::Normal,
            enqueued_at: self.now,
            not_before,
            expires,
            limits: millhand_proto::TimeLimits::default(),
            retry: millhand_proto::RetryWish::default(),
            tags: vec![],
            parent: None,
            root: None,
            producer: None,
            mailbox: None,
            not_understood: vec![],
        };
        let copies = Parcel::pack((0..jobs).map(core).collect()).unwrap().into_jobs();
        for copy in &copies {
            self.jobs.insert(
                copy.id(),
                Known {
                    first: copy.clone(),
                    ended: None,
                    results: HashMap::new(),
                },
            );
        }
        self.publish(copies.clone(), not_before.unwrap_or(self.now));
        if how & 64 == 0 {
            // The accepted records come later, or never.
            for copy in copies {
                self.accept(&copy);
            }
        }
    }

    fn accept(&mut self, copy: &JobCopy) {
        let key = copy.id().record_at(0);
        if self.entry(key, copy.id()).is_none() {
            self.put(key, copy.id(), Entry::accepted(copy));
        }
    }

    fn pick_job(&self, which: u32) -> Option<JobId> {
        let len = self.jobs.len();
        (len > 0).then(|| *self.jobs.keys().nth(which as usize % len).unwrap())
    }

    fn cancel(&mut self, id: JobId) {
        let Some((key, entry)) = self.newest(id) else {
            let copy = &self.jobs[&id].first;
            let (_, entry) = cancel(Entry::accepted(copy), "cancelled", self.now);
            return self.put(id.record_at(0), id, entry.unwrap());
        };
        let successor = entry.leaving;
        let hand = entry.hand;
        let (did, entry) = cancel(entry, "cancelled", self.now);
        let Some(entry) = entry else { return };
        let next = id.record_at(hand + 1);
        if did == Cancel::Cancelled && successor.is_some_and(|s| s.why != Leaving::Death) && next != key {
            let mut own = entry.clone();
            own.index = 0;
            if self.entry(next, id).is_none_or(|there| there.hand < own.hand) {
                self.put(next, id, own);
            }
        }
        self.put(key, id, entry);
    }

    fn operator_retry(&mut self, id: JobId, write: bool) {
        let Some((key, entry)) = self.newest(id) else { return };
        let Some(copy) = self.dead.get(&id).cloned() else {
            assert!(
                !self.clean || entry.state != State::Dead,
                "{id} is dead without its copy"
            );
            return;
        };
        let Ok((next, here, own)) = retry(&entry, &copy, self.now) else {
            return;
        };
        self.publish(vec![next], self.now);
        self.jobs.get_mut(&id).unwrap().ended = None;
        if write {
            self.put(key, id, here);
            if let Some(own) = own {
                let place = id.record_at(own.hand);
                if self.entry(place, id).is_none_or(|there| there.hand < own.hand) {
                    self.put(place, id, own);
                }
            }
        }
    }

    /// Run now, or a copy that the broker sent twice.
    fn duplicate(&mut self, which: u32, now: bool) {
        let copies: Vec<_> = self
            .queue
            .values()
            .flat_map(|m| m.jobs.iter().zip(&m.done))
            .filter(|(_, done)| !**done)
            .collect();
        if copies.is_empty() {
            return;
        }
        let mut copy = copies[which as usize % copies.len()].0.clone();
        if now {
            copy.hop.due = Some(self.now);
        }
        let visible = self.now;
        self.publish(vec![copy], visible);
    }

    // What workers do.

    fn deliver(&mut self, worker: usize, which: u32) {
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
    fn step(&mut self, worker: usize, which: usize, choice: u32, calm: bool) {
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
    fn crash(&mut self, worker: usize) {
        self.free_messages_of(worker);
        let number = self.next() + 1000;
        self.workers[worker] = Worker {
            id: worker_id(number),
            work: vec![],
        };
    }

    /// The connection to the queue is gone: what runs goes on, its acknowledgement is dropped.
    fn disconnect(&mut self, worker: usize) {
        self.free_messages_of(worker);
        let work = &mut self.workers[worker].work;
        work.retain(|w| !matches!(w.step, Step::Meet));
        work.iter_mut().for_each(|w| w.message = None);
    }

    // The laws.

    fn law_of_truth(&self) {
        for (id, known) in &self.jobs {
            let in_queue = || {
                self.queue
                    .values()
                    .any(|m| m.jobs.iter().zip(&m.done).any(|(j, done)| j.id() == *id && !done))
            };
            assert!(
                known.ended.is_some() || in_queue(),
                "{id} has not ended and is in no queue"
            );
        }
    }

    fn act(&mut self, (kind, a, b): (u8, u32, u32), loss: bool) {
        let worker = a as usize % WORKERS;
        match kind {
            0..=7 => self.enqueue(a, b),
            8 => {
                if let Some(id) = self.pick_job(a) {
                    let first = self.jobs[&id].first.clone();
                    self.publish(vec![first.clone()], self.now);
                    if b % 2 == 0 {
                        self.accept(&first);
                    }
                }
            }
            9..=29 => self.deliver(worker, b),
            30..=79 => self.step(
                worker,
                b as usize,
                u32::try_from(mix(u64::from(a ^ b)) >> 32).unwrap(),
                false,
            ),
            80..=83 => self.crash(worker),
            84 => self.disconnect(worker),
            85..=86 => {
                if let Some(id) = self.pick_job(a) {
                    self.cancel(id);
                }
            }
            87..=88 => {
                let dead: Vec<_> = self
                    .jobs
                    .iter()
                    .filter(|(_, k)| k.ended == Some(State::Dead))
                    .map(|(id, _)| *id)
                    .collect();
                if !dead.is_empty() {
                    self.operator_retry(dead[a as usize % dead.len()], b % 4 != 0);
                }
            }
            89..=91 => self.duplicate(a, b % 2 == 0),
            92..=97 => {
                let seconds = [1, 5, 20, 60, 100, 700, 1800, 90_000][b as usize % 8];
                self.now = self.now.plus(Duration::from_secs(seconds));
            }
            98 => self.snapshots.push(self.store.clone()),
            _ if !loss => {}
            _ if b % 3 == 0 => {
                self.store.clear();
                self.snapshots.clear();
                self.clean = false;
            }
            _ => {
                if !self.snapshots.is_empty() {
                    let at = a as usize % self.snapshots.len();
                    self.snapshots.truncate(at + 1);
                    self.store = self.snapshots[at].clone();
                    self.clean = false;
                }
            }
        }
        self.law_of_truth();
    }

    /// Everything is well again: every job comes to its end.
    fn drain(&mut self) {
        for _ in 0..1000 {
            if self.queue.is_empty() && self.workers.iter().all(|w| w.work.is_empty()) {
                break;
            }
            for worker in 0..WORKERS {
                for _ in 0..SLOTS {
                    self.deliver(worker, 0);
                }
                for _ in 0..20 {
                    self.step(worker, 0, 0, true);
                    self.law_of_truth();
                }
            }
            if let Some(next) = self.queue.values().map(|m| m.visible).min() {
                self.now = self.now.max(next);
            }
        }
        assert!(self.queue.is_empty(), "the queue does not drain");
        for (id, known) in &self.jobs {
            let ended = known.ended.unwrap_or_else(|| panic!("{id} never ended"));
            if self.clean {
                let (_, entry) = self.newest(*id).unwrap();
                assert_eq!(entry.state, ended, "the record of {id} tells its end");
                assert!(!entry.moved);
            }
        }
    }
}

fn history() -> impl Strategy<Value = Vec<(u8, u32, u32)>> {
    proptest::collection::vec((0u8..=100, any::<u32>(), any::<u32>()), 150..300)
}

fn live(history: Vec<(u8, u32, u32)>, loss: bool) {
    let mut world = World::new();
    for op in history {
        world.act(op, loss);
    }
    world.drain();
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("MILLHAND_LAWS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(250);
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 500,
        max_shrink_time: 6_000,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn laws_hold_while_workers_crash(history in history()) {
        live(history, false);
    }

    #[test]
    fn laws_hold_while_the_store_loses_its_memory(history in history()) {
        live(history, true);
    }
}
