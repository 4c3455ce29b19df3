//! What changes make of the records of one parcel's jobs: each is one call of the pure rules, with what
//! a new state brings with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::protocol::{
    Cancel, Meeting, Written, adopt, cancel, confirm_published, finish, give_back, leave, meet, retry,
};
use millhand_proto::{
    Class, Core, Entry, JobCopy, JobId, Mailbox, QueueName, Record, RecordKey, State, TaskName, Timestamp, WorkerId,
    limits,
};

use super::changes::{Change, Reply, places};
use super::store::{Effect, Expected, Key, shard_of};
use crate::backend::{Acted, Mail};

/// How many ids an index of a state holds.
pub(super) const INDEX: usize = 100_000;
/// How long lists of jobs that succeeded are kept: as long as their records, and a bucket more.
const KEEP_LIST: Duration = limits::KEEP_SUCCEEDED.saturating_add(Duration::from_secs(BUCKET_SECS));
/// Lists are cut into buckets of ten minutes.
const BUCKET_SECS: u64 = 600;

/// How long after its time a delayed copy may still come.
const LATE_COPIES: Duration = Duration::from_secs(24 * 3600);

/// The bucket of a point in time.
pub(super) fn bucket(at: Timestamp) -> u64 {
    u64::try_from(at.as_micros() / 1_000_000).unwrap_or(0) / BUCKET_SECS
}

/// What is known while changes are applied.
#[derive(Debug)]
pub(super) struct Knowledge {
    pub(super) now: Timestamp,
    pub(super) shards: u16,
    /// Whether these workers live.
    pub(super) alive: HashMap<WorkerId, bool>,
}

/// A record as it stands, and what becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) expected: Expected,
    pub(super) record: Option<Arc<Record>>,
    /// It was read just now, or swapped: no guess of what stands there.
    pub(super) read: bool,
    pub(super) changed: bool,
    /// It is kept at least so long, whatever its entries say.
    pub(super) keep_until: Timestamp,
}

/// The records of one parcel's jobs, as far as they were looked at. They are swapped together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) slots: HashMap<RecordKey, Slot>,
    pub(super) effects: Vec<Effect>,
}

impl Group {
    /// Whether what this change found was never looked up.
    pub(super) fn is_guess(&self, change: &Change) -> bool {
        change
            .keys()
            .any(|key| self.slots.get(&key).is_some_and(|slot| !slot.read))
    }

    fn peek(&self, key: RecordKey, id: JobId) -> Option<&Entry> {
        self.slots.get(&key)?.record.as_ref()?.entry(key, id)
    }

    fn entry(&self, key: RecordKey, id: JobId) -> Option<Entry> {
        self.peek(key, id).cloned()
    }

    /// The job's newest entry, and where it lives.
    fn find(&self, id: JobId) -> Option<(RecordKey, Entry)> {
        let found = places(id).filter_map(|key| Some((key, self.entry(key, id)?)));
        found
            .filter(|(_, entry)| !entry.moved)
            .max_by_key(|(_, entry)| entry.hand)
    }

    fn home(&self, key: RecordKey) -> Option<(QueueName, Class)> {
        let record = self.slots.get(&key)?.record.as_ref()?;
        Some((record.queue.clone(), record.class))
    }

    /// Writes an entry, and what its new state brings with it.
    fn put(&mut self, know: &Knowledge, key: RecordKey, home: (QueueName, Class), id: JobId, entry: Entry) {
        let before = self.peek(key, id);
        let news = before.is_none_or(|before| before.state != entry.state || before.hand != entry.hand);
        if news && !entry.moved {
            let shard = shard_of(id.parcel_key(), know.shards);
            let bytes = Bytes::copy_from_slice(id.as_bytes());
            match entry.state {
                State::Succeeded => {
                    let list = Key::Succeeded(shard, entry.task.clone(), bucket(know.now));
                    self.effects.push(Effect::Append(list, bytes, KEEP_LIST));
                }
                State::Queued | State::Running => {}
                state => {
                    let keep = limits::HORIZON.min(limits::KEEP_OTHERS * 4);
                    self.effects
                        .push(Effect::AppendCapped(Key::Index(shard, state), bytes, keep, INDEX));
                }
            }
            if entry.state.is_ended() {
                let posts = entry.waiters.iter().map(|to| Effect::Post(*to, Mail::Ended(id)));
                self.effects.extend(posts);
            }
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let record = slot.record.get_or_insert_with(|| Arc::new(Record::new(home.0, home.1)));
        Arc::make_mut(record).put(entry);
        slot.changed = true;
    }

    fn put_copy(&mut self, know: &Knowledge, copy: &JobCopy, entry: Option<Entry>) {
        if let Some(entry) = entry {
            let key = copy.id().record_at(copy.hop.hand);
            let home = (copy.core.queue.clone(), copy.core.class);
            self.put(know, key, home, copy.id(), entry);
            // Made due before its time, it has another copy that comes then.
            if let (Some(slot), Some(due)) = (self.slots.get_mut(&key), copy.core.not_before) {
                slot.keep_until = slot.keep_until.max(due.plus(LATE_COPIES));
            }
        }
    }

    /// Keeps the log of an attempt that ended, in place of an earlier one's.
    fn put_log(&mut self, copy: &JobCopy, log: Option<&Bytes>, keep: Duration) {
        let key = Key::Log(copy.id());
        match log {
            Some(log) => self.effects.push(Effect::Put(key, log.clone(), keep)),
            None if copy.hop.hand > 0 => self.effects.push(Effect::Delete(key)),
            None => {}
        }
    }

    /// Applies one change.
    pub(super) fn apply(&mut self, change: &Change, know: &Knowledge) -> Reply {
        let at = |copy: &JobCopy| copy.id().record_at(copy.hop.hand);
        match change {
            Change::Claim {
                copy,
                situation,
                purged,
            } => {
                let entry = self.entry(at(copy), copy.id());
                if let Some(purged) = purged_aside(entry.as_ref(), copy, *purged, know.now) {
                    self.put_copy(know, copy, Some(purged));
                    return Reply::Met(Meeting::Ended(State::Cancelled));
                }
                let mut situation = situation.clone();
                situation.now = know.now;
                let owner = entry
                    .as_ref()
                    .filter(|e| e.state == State::Running)
                    .and_then(|e| e.owner);
                if let Some(owner) = owner.filter(|owner| *owner != situation.worker) {
                    let Some(alive) = know.alive.get(&owner) else {
                        return Reply::AskOf(owner);
                    };
                    situation.owner_alive = *alive;
                }
                let (meeting, entry) = meet(entry, copy, &situation);
                self.put_copy(know, copy, entry);
                Reply::Met(meeting)
            }
            Change::End {
                copy,
                fence,
                end,
                big,
                receipt,
                log,
            } => {
                let entry = self.entry(at(copy), copy.id());
                let (written, entry) = finish(entry, copy, *fence, end.clone(), *receipt, know.now);
                if let (Some(_), Some(big)) = (&entry, big) {
                    let keep = limits::KEEP_SUCCEEDED;
                    self.effects
                        .push(Effect::Put(Key::Result(copy.id()), big.clone(), keep));
                }
                if let Some(until) = entry.as_ref().and_then(Entry::keep_until) {
                    self.put_log(copy, log.as_ref(), until.since(know.now));
                }
                self.put_copy(know, copy, entry);
                Reply::Written(written)
            }
            Change::Leave {
                copy,
                fence,
                successor,
                reason,
                note,
                receipt,
                log,
            } => {
                let entry = self.entry(at(copy), copy.id());
                let (written, entry) = leave(
                    entry,
                    copy,
                    *fence,
                    *successor,
                    reason.as_deref(),
                    note.clone(),
                    *receipt,
                );
                // What dies without a run leaves the log of its last attempt.
                if entry.is_some() && fence.is_some() {
                    let until = successor.due.max(know.now).plus(limits::KEEP_OTHERS);
                    self.put_log(copy, log.as_ref(), until.since(know.now));
                }
                self.put_copy(know, copy, entry);
                Reply::Written(written)
            }
            Change::Confirm { copy, published, body } => {
                let (id, entry) = (copy.id(), self.entry(at(copy), copy.id()));
                let (acknowledge, confirmed) = confirm_published(entry, copy, *published, know.now);
                if let (Some(_), Some(body)) = (&confirmed.here, body) {
                    let keep = limits::KEEP_OTHERS;
                    self.effects.push(Effect::Put(Key::Dead(id), body.clone(), keep));
                }
                self.put_copy(know, copy, confirmed.here);
                let own = RecordKey::Own(id);
                if let Some(entry) = confirmed.own
                    && self.entry(own, id).is_none()
                {
                    let home = (copy.core.queue.clone(), copy.core.class);
                    self.put(know, own, home, id, entry);
                }
                Reply::Confirmed(acknowledge)
            }
            Change::GiveBack { copy, fence, worker } => {
                let entry = self.entry(at(copy), copy.id());
                let (written, entry) = give_back(entry, copy, *fence, *worker, know.now);
                self.put_copy(know, copy, entry);
                Reply::Written(written)
            }
            Change::Detach { copy } => {
                let entry = self.entry(at(copy), copy.id());
                let running = entry.filter(|e| e.state == State::Running && e.hand == copy.hop.hand);
                let detached = running.map(|entry| Entry {
                    detached: true,
                    ..entry
                });
                self.put_copy(know, copy, detached);
                Reply::Written(Written::Applied)
            }
            Change::Cancel { id } => Reply::Acted(self.cancel(know, *id)),
            Change::Retried { id, copy, hand } => Reply::Acted(self.retried(know, *id, copy, *hand)),
            Change::Drop { id } => Reply::Acted(self.forget(*id)),
            Change::Listen { id, mailbox } => Reply::Acted(self.listen(know, *id, *mailbox)),
            Change::Unreadable { id, queue, reason } => {
                let known = self.find(*id);
                if known
                    .as_ref()
                    .is_none_or(|(_, e)| matches!(e.state, State::Queued | State::Scheduled))
                {
                    let (key, hand) = known.map_or((id.record_at(0), 0), |(key, known)| (key, known.hand));
                    let mut entry = stranger(*id, "unreadable", queue.clone(), know.now);
                    if key != id.record_at(0) {
                        entry.index = 0;
                    }
                    entry.hand = hand;
                    entry.state = State::Dead;
                    entry.ended = Some(know.now);
                    entry.reason = Some(format!("unreadable: {reason}"));
                    self.put(know, key, (queue.clone(), Class::Normal), *id, entry);
                }
                Reply::Written(Written::Applied)
            }
            Change::Dead { copy, body } => {
                let id = copy.id();
                let newest = self.find(id).map(|(_, entry)| entry);
                let older = newest.as_ref().is_none_or(|entry| entry.hand < copy.hop.hand);
                let same = newest
                    .as_ref()
                    .is_some_and(|e| e.hand == copy.hop.hand && e.state == State::Dead);
                if older {
                    let mut entry = adopt(newest, copy);
                    entry.state = State::Dead;
                    entry.ended = Some(know.now);
                    entry.due = None;
                    let error = copy.hop.first_error.as_deref();
                    let first = error.map(|e| format!("; its first error: {e}")).unwrap_or_default();
                    entry.reason = Some(format!("unknown: its record was lost{first}"));
                    self.put_copy(know, copy, Some(entry));
                }
                let dead = older || same;
                if dead {
                    let keep = limits::KEEP_OTHERS;
                    self.effects.push(Effect::Put(Key::Dead(id), body.clone(), keep));
                }
                // Whether the copy in the dead queue is still of use.
                Reply::Confirmed(dead)
            }
            Change::Restore { key, record } => {
                let ours = &record.entries;
                let Some(slot) = self.slots.get_mut(key) else {
                    return Reply::Written(Written::Stale);
                };
                let theirs = slot
                    .record
                    .get_or_insert_with(|| Arc::new(Record::new(record.queue.clone(), record.class)));
                for entry in ours {
                    let known = theirs.entries.iter().find(|other| other.index == entry.index);
                    let newer = known.is_none_or(|known| is_behind(known, entry));
                    if newer {
                        Arc::make_mut(theirs).put(entry.clone());
                        slot.changed = true;
                    }
                }
                Reply::Written(Written::Applied)
            }
        }
    }

    fn cancel(&mut self, know: &Knowledge, id: JobId) -> Acted {
        let Some((key, entry)) = self.find(id) else {
            // Nothing is remembered: this will be, when a copy of it is met.
            let queue = unknown_queue();
            let entry = stranger(id, "unknown", queue.clone(), know.now);
            if let (_, Some(entry)) = cancel(entry, "cancelled", know.now) {
                self.put(know, id.record_at(0), (queue, Class::Normal), id, entry);
            }
            return Acted::Done;
        };
        let home = self.home(key).unwrap_or((unknown_queue(), Class::Normal));
        let (due, leaving) = (entry.due, entry.leaving);
        let (answer, cancelled) = cancel(entry, "cancelled", know.now);
        if let Some(cancelled) = cancelled {
            // A successor that is on its way would live elsewhere: it is stopped there too.
            let next = id.record_at(cancelled.hand);
            if next != key && leaving.is_some() && self.entry(next, id).is_none() {
                let there = Entry {
                    index: 0,
                    ..cancelled.clone()
                };
                self.put(know, next, home.clone(), id, there);
            }
            self.put(know, key, home, id, cancelled);
            // Its copy may wait on the ladder for long; until then this must be known.
            let until = due.or(leaving.map(|l| l.due)).unwrap_or_default();
            for slot in self.slots.values_mut() {
                slot.keep_until = slot.keep_until.max(until.plus(LATE_COPIES));
            }
        }
        match answer {
            Cancel::Cancelled | Cancel::Ended(State::Cancelled) => Acted::Done,
            Cancel::Ended(state) => Acted::Refused(format!("it is {state} already")),
            Cancel::Asked(owner) => {
                self.effects.push(Effect::Post(owner, Mail::Cancel(id)));
                Acted::Asked
            }
        }
    }

    fn retried(&mut self, know: &Knowledge, id: JobId, copy: &JobCopy, hand: u32) -> Acted {
        let Some((key, entry)) = self.find(id) else {
            return Acted::Done;
        };
        let home = self.home(key).unwrap_or((copy.core.queue.clone(), copy.core.class));
        if entry.hand > hand {
            // Its copy was met already, or another operator was first. It may have died again since:
            // that death is its own.
            let there = id.record_at(hand);
            if let Some(old) = self.entry(there, id).filter(|old| old.hand == hand && !old.moved) {
                self.put(know, there, home, id, Entry { moved: true, ..old });
            }
        } else if let Ok((_, old, own)) = retry(&entry, copy, know.now) {
            self.put(know, key, home.clone(), id, old);
            if let Some(own) = own {
                self.put(know, RecordKey::Own(id), home, id, own);
            }
            self.effects.push(Effect::Delete(Key::Dead(id)));
        }
        Acted::Done
    }

    fn forget(&mut self, id: JobId) -> Acted {
        let Some((_, entry)) = self.find(id) else {
            return Acted::Unknown;
        };
        if !entry.state.is_ended() {
            return Acted::Refused(format!("it is {}; cancel it first", entry.state));
        }
        for key in places(id) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let Some(record) = slot.record.as_mut().map(Arc::make_mut) else {
                continue;
            };
            let index = millhand_proto::record::slot(key, id);
            record.entries.retain(|entry| entry.index != index);
            if record.entries.is_empty() {
                slot.record = None;
            }
            slot.changed = true;
        }
        let beside = [Key::Result(id), Key::Dead(id), Key::Log(id)];
        self.effects.extend(beside.map(Effect::Delete));
        Acted::Done
    }

    fn listen(&mut self, know: &Knowledge, id: JobId, mailbox: Mailbox) -> Acted {
        let Some((key, mut entry)) = self.find(id) else {
            return Acted::Unknown;
        };
        if entry.listen(mailbox) {
            let home = self.home(key).unwrap_or((unknown_queue(), Class::Normal));
            self.put(know, key, home, id, entry);
        }
        Acted::Done
    }
}

/// What a purge made of a copy that was parked when its queue was emptied, and so lay elsewhere.
fn purged_aside(entry: Option<&Entry>, copy: &JobCopy, purged: Option<Timestamp>, now: Timestamp) -> Option<Entry> {
    let parked = copy.hop.parked.as_ref()?;
    let waits = entry.is_none_or(|e| e.hand == copy.hop.hand && e.state == State::Queued);
    if !waits || Some(parked.since) >= purged {
        return None;
    }
    cancel(entry.cloned().unwrap_or_else(|| adopt(None, copy)), "purged", now).1
}

/// Whether this entry tells of less than the other. Of one claim, the end tells more than the
/// decided successor, and that more than the run.
fn is_behind(this: &Entry, other: &Entry) -> bool {
    let told = |entry: &Entry| (entry.state.is_ended(), entry.leaving.is_some());
    let claim = |entry: &Entry| (entry.hand, entry.claims);
    claim(this) < claim(other) || (this.fence() == other.fence() && told(this) < told(other))
}

/// The entry of a job of which nothing but its id is known.
fn stranger(id: JobId, task: &str, queue: QueueName, now: Timestamp) -> Entry {
    let task = TaskName::new(task).unwrap_or_else(|_| unreachable!("a constant that is a name"));
    adopt(None, &JobCopy::first(Core::new(id, task, queue, now)))
}

fn unknown_queue() -> QueueName {
    QueueName::new("unknown").unwrap_or_else(|_| unreachable!("a constant that is a name"))
}
