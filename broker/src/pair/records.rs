//! Records by compare-and-swap: what each is expected to be is predicted, so that the normal path
//! is one round trip, and a miss costs one more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millhand_proto::protocol::Meeting;
use millhand_proto::{JobId, Record, RecordKey, Timestamp, WorkerId, limits};

use super::changes::{Change, Reply};
use super::group::{Group, Knowledge, Slot};
use super::store::{Effect, Expected, Found, Key, Read, Store, Swap, Swapped, Version, Write};
use super::trust::Trust;
use crate::coalesce::Coalescer;
use crate::error::{Error, Result};
use crate::io::{Io, random};
use crate::lock::lock;

/// What is written beside the records of one parcel in one swap, in bytes, about.
const SWAP_BYTES: usize = 1 << 20;
/// Callers whose changes may be joined: each brings as many as it has at once.
const CALLERS: usize = 256;
/// Times that a change is applied again because somebody else was faster.
const ROUNDS: usize = 20;

/// Records that this process holds jobs of, as it wrote them last or expects them to be.
type Cache = HashMap<RecordKey, Cached>;

#[derive(Debug)]
struct Cached {
    /// Deliveries and runs that concern it.
    uses: usize,
    /// `None` where it must be read first.
    known: Option<(Expected, Option<Arc<Record>>)>,
}

/// The door to all records.
#[derive(Debug)]
pub(super) struct Records {
    /// One batch at a time: a process has one swap per record in flight.
    door: Coalescer<Vec<Change>, Vec<Result<Reply>>>,
    cache: Arc<Mutex<Cache>>,
}

impl Records {
    /// Batches are worked on `io`: who asks first may block his runtime, or end it.
    pub(super) fn new(store: &Arc<dyn Store>, trust: &Arc<Trust>, io: &Io) -> Self {
        let cache: Arc<Mutex<Cache>> = Arc::default();
        let writer = Arc::new(Writer {
            store: Arc::clone(store),
            trust: Arc::clone(trust),
            cache: Arc::clone(&cache),
        });
        let door = Coalescer::on(io.handle().clone(), CALLERS, move |callers: Vec<Vec<Change>>| {
            let writer = Arc::clone(&writer);
            async move {
                let counts: Vec<usize> = callers.iter().map(Vec::len).collect();
                let changes: Vec<Change> = callers.into_iter().flatten().collect();
                let mut answers = writer.change(changes).await.into_iter();
                let of_caller = |count| answers.by_ref().take(count).collect();
                counts.into_iter().map(of_caller).collect()
            }
        });
        Self { door, cache }
    }

    /// Makes these changes durable; one answer each, in order.
    pub(super) async fn change(&self, changes: Vec<Change>) -> Vec<Result<Reply>> {
        let count = changes.len();
        if count == 0 {
            return Vec::new();
        }
        let answers = self.door.call(changes).await;
        answers.unwrap_or_else(|| (0..count).map(|_| Err(Error::Closed)).collect())
    }

    pub(super) async fn one(&self, change: Change) -> Result<Reply> {
        self.change(vec![change]).await.pop().unwrap_or(Err(Error::Closed))
    }

    /// Somebody here will change this record; `fresh` is what it is if nobody has touched it yet.
    pub(super) fn hold(&self, key: RecordKey, fresh: Option<Record>) {
        let mut cache = lock(&self.cache);
        let cached = cache.entry(key).or_insert(Cached {
            uses: 0,
            known: fresh.map(|record| (Expected::Fresh, Some(Arc::new(record)))),
        });
        cached.uses += 1;
    }

    pub(super) fn release(&self, key: RecordKey) {
        let mut cache = lock(&self.cache);
        if let Some(cached) = cache.get_mut(&key) {
            cached.uses -= 1;
            if cached.uses == 0 {
                cache.remove(&key);
            }
        }
    }

    /// What this process wrote into records that it still holds jobs of.
    pub(super) fn written(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let cache = lock(&self.cache);
        let written = cache.iter().filter_map(|(key, cached)| match &cached.known {
            Some((Expected::Version(_), Some(record))) => Some((*key, Arc::clone(record))),
            _ => None,
        });
        written.collect()
    }
}

/// What works a batch.
struct Writer {
    store: Arc<dyn Store>,
    trust: Arc<Trust>,
    cache: Arc<Mutex<Cache>>,
}

impl Writer {
    async fn change(&self, changes: Vec<Change>) -> Vec<Result<Reply>> {
        let mut answers: Vec<Option<Result<Reply>>> = changes.iter().map(|_| None).collect();
        if let Err(error) = self.work(&changes, &mut answers).await {
            for answer in answers.iter_mut().filter(|a| a.is_none()) {
                *answer = Some(Err(Error::unreachable(&self.store.place(), error.to_string())));
            }
        }
        answers.into_iter().map(|a| a.unwrap_or(Err(Error::Closed))).collect()
    }

    async fn work(&self, changes: &[Change], answers: &mut [Option<Result<Reply>>]) -> Result<()> {
        let mut works = self.works(changes);
        let mut alive: HashMap<WorkerId, bool> = HashMap::new();
        for _ in 0..ROUNDS {
            self.read_missing(changes, &mut works).await?;
            let know = Knowledge {
                now: self.store.now(),
                shards: self.store.shards(),
                alive: std::mem::take(&mut alive),
            };
            let (mut swaps, mut asked) = (Vec::new(), Vec::new());
            for work in &mut works {
                swaps.extend(work.draft(changes, &know, &mut asked));
            }
            alive = know.alive;
            let mut swapped = if swaps.is_empty() {
                Vec::new()
            } else {
                self.store.swap(swaps).await?
            }
            .into_iter();
            for work in &mut works {
                let answer = if work.swaps {
                    swapped.next()
                } else {
                    Some(Swapped::Done)
                };
                match answer {
                    Some(Swapped::Done) => {
                        self.wrote(work);
                        for (at, reply) in work.replies.drain(..) {
                            work.left.retain(|other| *other != at);
                            answers[at] = Some(Ok(reply));
                        }
                    }
                    Some(Swapped::Current(current)) => {
                        // What was only looked at is as old as what was to be written.
                        work.group.slots.clear();
                        for ((key, _), bytes) in work.versions.drain(..).zip(current) {
                            work.group.slots.insert(key, self.slot(key, bytes.as_deref()));
                        }
                    }
                    None => return Err(Error::unreachable(&self.store.place(), "it was short of an answer")),
                }
            }
            works.retain(|work| !work.left.is_empty());
            if works.is_empty() {
                return Ok(());
            }
            self.ask_of(asked, &mut alive).await?;
        }
        Err(Error::unreachable(
            &self.store.place(),
            "others change the same record all the time",
        ))
    }

    /// Changes of one parcel together, in the order they came, with what is expected of its records
    /// without looking.
    fn works(&self, changes: &[Change]) -> Vec<Work> {
        let mut works: Vec<Work> = Vec::new();
        let mut of: HashMap<JobId, usize> = HashMap::new();
        let cache = lock(&self.cache);
        for (at, change) in changes.iter().enumerate() {
            let place = *of.entry(change.parcel()).or_insert(works.len());
            if place == works.len() {
                works.push(Work::default());
            }
            let work = &mut works[place];
            work.left.push(at);
            for key in change.keys() {
                if let Entry::Vacant(vacant) = work.group.slots.entry(key)
                    && let Some((expected, record)) = cache.get(&key).and_then(|cached| cached.known.as_ref())
                {
                    let read = false;
                    vacant.insert(slot(*expected, record.clone(), read));
                }
            }
        }
        // What is to be restored is what is known here: what the store knows must be read.
        for change in changes.iter().filter(|change| matches!(change, Change::Restore { .. })) {
            let work = &mut works[of[&change.parcel()]];
            work.group
                .slots
                .retain(|key, _| change.keys().all(|other| other != *key));
        }
        works
    }

    async fn read_missing(&self, changes: &[Change], works: &mut [Work]) -> Result<()> {
        let mut missing: Vec<(usize, RecordKey)> = Vec::new();
        for (place, work) in works.iter().enumerate() {
            let keys = work.left.iter().flat_map(|at| changes[*at].keys());
            missing.extend(
                keys.filter(|key| !work.group.slots.contains_key(key))
                    .map(|key| (place, key)),
            );
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let reads = missing.iter().map(|(_, key)| Read::Get(Key::Record(*key))).collect();
        let found = self.store.read(reads).await?;
        for ((place, key), found) in missing.into_iter().zip(found) {
            let slot = self.slot(key, found.bytes().as_deref());
            works[place].group.slots.insert(key, slot);
        }
        Ok(())
    }

    /// Which of these workers live.
    async fn ask_of(&self, mut asked: Vec<WorkerId>, alive: &mut HashMap<WorkerId, bool>) -> Result<()> {
        asked.sort_unstable();
        asked.dedup();
        asked.retain(|worker| !alive.contains_key(worker));
        if asked.is_empty() {
            return Ok(());
        }
        let reads = asked.iter().map(|worker| Read::Get(Key::Lease(*worker))).collect();
        let found = self.store.read(reads).await?;
        let judges = self.trust.may_judge(self.store.connections());
        for (worker, found) in asked.into_iter().zip(found) {
            alive.insert(worker, !judges || found.bytes().is_some());
        }
        Ok(())
    }

    /// What was written stands now; it is remembered where jobs of it are still held.
    fn wrote(&self, work: &mut Work) {
        for (key, version) in work.versions.drain(..) {
            let Some(slot) = work.group.slots.get_mut(&key) else {
                continue;
            };
            slot.expected = version.map_or(Expected::Absent, Expected::Version);
            (slot.changed, slot.read) = (false, true);
        }
        let mut cache = lock(&self.cache);
        for (key, slot) in &work.group.slots {
            if let Some(cached) = cache.get_mut(key) {
                cached.known = Some((slot.expected, slot.record.clone()));
            }
        }
    }

    fn slot(&self, key: RecordKey, bytes: Option<&[u8]>) -> Slot {
        let Some((version, bytes)) = bytes.and_then(|b| b.split_first_chunk::<8>()) else {
            return slot(Expected::Absent, None, true);
        };
        let record = match Record::decode(bytes) {
            Ok(record) => Some(Arc::new(record)),
            Err(error) => {
                // A record that cannot be read tells nothing: the copy is the truth.
                tracing::error!(store = self.store.place(), ?key, %error, "a record is taken for lost");
                None
            }
        };
        slot(Expected::Version(*version), record, true)
    }
}

fn slot(expected: Expected, record: Option<Arc<Record>>, read: bool) -> Slot {
    Slot {
        expected,
        record,
        read,
        changed: false,
        keep_until: Timestamp::default(),
    }
}

/// A record that is written, and its new version; `None` where it is removed.
type Written = (RecordKey, Option<Version>);

/// Changes of one parcel's jobs that are under way.
#[derive(Default)]
struct Work {
    /// Its records as they would be if nobody else was faster.
    group: Group,
    /// Places of the changes that are not made yet.
    left: Vec<usize>,
    /// Places and answers of those that are made with the swap under way.
    replies: Vec<(usize, Reply)>,
    /// Whether a swap is under way; some changes come to nothing.
    swaps: bool,
    /// In the order of its writes.
    versions: Vec<Written>,
}

impl Work {
    /// Applies what is left, except where it must be known first whether a worker lives.
    fn draft(&mut self, changes: &[Change], know: &Knowledge, asked: &mut Vec<WorkerId>) -> Option<Swap> {
        // After a swap that came too late, everything is applied again.
        self.replies.clear();
        let (mut guessed, mut bytes) = (Vec::new(), 0);
        for at in &self.left {
            // The rest waits for the next round: a script call that is too long holds up all.
            if bytes > SWAP_BYTES {
                break;
            }
            let before = self.group.effects.len();
            match self.group.apply(&changes[*at], know) {
                Reply::AskOf(owner) => asked.push(owner),
                // A copy is thrown away by what the store says, not by what was once known of it.
                Reply::Met(Meeting::Drop) if self.group.is_guess(&changes[*at]) => guessed.extend(changes[*at].keys()),
                reply => self.replies.push((*at, reply)),
            }
            bytes += self.group.effects[before..].iter().map(Effect::bytes).sum::<usize>();
        }
        // What is swapped is no guess any more when that is done.
        self.group
            .slots
            .retain(|key, slot| slot.changed || !guessed.contains(key));
        let mut writes = Vec::new();
        for (key, slot) in self.group.slots.iter().filter(|(_, slot)| slot.changed) {
            let version = random().to_be_bytes();
            let bytes = slot.record.as_ref().map(|record| encode(version, record));
            self.versions.push((*key, bytes.is_some().then_some(version)));
            writes.push(Write {
                key: Key::Record(*key),
                expected: slot.expected,
                bytes,
                keep: keep(slot, know.now),
            });
        }
        let effects = std::mem::take(&mut self.group.effects);
        self.swaps = !(writes.is_empty() && effects.is_empty());
        self.swaps.then_some(Swap { writes, effects })
    }
}

/// Version and record as they are stored.
pub(super) fn encode(version: Version, record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend(version);
    // The encoder of these types has no way to fail.
    let _ = record.append_to(&mut bytes);
    bytes
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(found: Found) -> Option<Record> {
    Record::decode(found.bytes()?.get(8..)?).ok()
}

/// How long a record is kept: as long as its longest-lived entry; one that has not ended, a week
/// beyond all that is known of it.
fn keep(slot: &Slot, now: Timestamp) -> Duration {
    let Some(record) = &slot.record else {
        return Duration::ZERO;
    };
    let until = record.keep_until().unwrap_or_else(|| {
        let times = record.entries.iter().flat_map(|e| [e.due, e.deadline]).flatten();
        times.max().unwrap_or_default().max(now).plus(limits::KEEP_OTHERS)
    });
    until.max(slot.keep_until).since(now).max(Duration::from_secs(60))
}
