//! The laws of a job's life, held against random histories.
//!
//! A small world (queue, store, dead queue, workers, clock) applies the protocol's functions as a
//! back end does, one step at a time; between any two steps a worker may crash, and the store may
//! lose its memory. Beside it stands a plain model: which jobs were accepted, and how they ended.
#![allow(clippy::unwrap_used, clippy::manual_is_multiple_of, missing_docs)]

mod people;
mod servers;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use millhand_proto::protocol::{End, Meeting, Situation, Written, finish, meet};
use millhand_proto::{Core, JobCopy, JobId, QueueName, Receipt, Record, RecordKey, State, TaskName, Timestamp};
use proptest::prelude::*;

use self::workers::{Worker, worker_id};

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

fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
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

/// The store forgot a claim, and gave its number again: of two that have it, the one that it remembers is true.
#[test]
fn a_claim_is_told_from_another_of_its_number_by_its_token() {
    let now = World::new().now;
    let core = Core::new(
        JobId::given("job"),
        TaskName::new("task").unwrap(),
        QueueName::default(),
        now,
    );
    let copy = JobCopy::first(core);
    let claim = |token| match meet(None, &copy, &Situation::new(worker_id(token), token, now)) {
        (Meeting::Run { fence, .. }, Some(entry)) => (fence, entry),
        met => panic!("{met:?}"),
    };
    let ((forgotten, _), (remembered, entry)) = (claim(1), claim(2));
    assert_eq!((forgotten.claim, forgotten.hand), (remembered.claim, remembered.hand));
    let end = |fence| {
        let end = End::Succeeded(None);
        finish(Some(entry.clone()), &copy, fence, end, Receipt::default(), now).0
    };
    assert_eq!(end(forgotten), Written::Stale);
    assert_eq!(end(remembered), Written::Applied);
}
