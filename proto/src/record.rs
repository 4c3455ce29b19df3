//! What a store remembers of a parcel's jobs.

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::id::{JobId, Mailbox, RecordKey, WorkerId};
use crate::limits;
use crate::name::{QueueName, TaskName};
use crate::outcome::{AttemptEnd, ErrorText};
use crate::payload::Payload;
use crate::receipt::Receipt;
use crate::state::State;
use crate::time::Timestamp;
use crate::wire::{JobCopy, scan};

/// Leave to run: only who holds the newest fence may write the job's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The hand of the copy that was claimed.
    #[serde(rename = "h", default)]
    pub hand: u32,
    /// The claim's number at that hand.
    #[serde(rename = "c", default)]
    pub claim: u32,
    /// Random: after a store has lost its memory, numbers repeat.
    #[serde(rename = "k", default)]
    pub token: u64,
}

/// The decided next copy of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Successor {
    /// Why the job leaves.
    #[serde(rename = "w")]
    pub why: Leaving,
    /// When the next copy is due.
    #[serde(rename = "d")]
    pub due: Timestamp,
}

/// Why a job leaves its present copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// An attempt failed and another follows.
    Retry,
    /// The handler asked for a later run.
    Snooze,
    /// To the dead queue.
    Death,
}

/// One attempt, as its record tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptNote {
    /// Its number, from 1.
    #[serde(rename = "n")]
    pub number: u32,
    /// When it started.
    #[serde(rename = "s")]
    pub started: Timestamp,
    /// When it ended.
    #[serde(rename = "e")]
    pub ended: Timestamp,
    /// How.
    #[serde(rename = "o")]
    pub end: AttemptEnd,
    /// Why its process crashed, as a code ([`CrashCause::code`](crate::CrashCause::code)).
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Its error.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorText>,
    /// Where it ran.
    #[serde(rename = "w")]
    pub worker: WorkerId,
    /// When the next attempt was to start.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
}

/// Why and since when a job is parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkNote {
    /// When it was parked first.
    #[serde(rename = "s")]
    pub since: Timestamp,
    /// How often.
    #[serde(rename = "t")]
    pub times: u32,
    /// Why, for people.
    #[serde(rename = "w")]
    pub why: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a record says of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The index in the parcel; 0 in a job's own record.
    #[serde(rename = "i", default, skip_serializing_if = "is_default")]
    pub index: u16,
    /// Where the job is in its life.
    #[serde(rename = "s")]
    pub state: State,
    /// The hand; rises only by adopting a copy or by a written confirm.
    #[serde(rename = "h", default, skip_serializing_if = "is_default")]
    pub hand: u32,
    /// Attempts that ended and count.
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    pub attempts: u32,
    /// The task.
    #[serde(rename = "t")]
    pub task: TaskName,
    /// When the job was enqueued.
    #[serde(rename = "ea")]
    pub enqueued_at: Timestamp,
    /// When the present copy is due.
    #[serde(rename = "du", default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Not after this.
    #[serde(rename = "xp", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Claims at this hand.
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    pub claims: u32,
    /// The token of the newest claim.
    #[serde(rename = "k", default, skip_serializing_if = "is_default")]
    pub token: u64,
    /// Who runs it, or ran it last.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<WorkerId>,
    /// When a running job is taken for lost.
    #[serde(rename = "dl", default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Workers that died under it at this hand.
    #[serde(rename = "de", default, skip_serializing_if = "is_default")]
    pub deaths: u32,
    /// Attempts whose process crashed.
    #[serde(rename = "cr", default, skip_serializing_if = "is_default")]
    pub crashes: u32,
    /// Parked, and why.
    #[serde(rename = "pk", default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<ParkNote>,
    /// When the last attempt started.
    #[serde(rename = "st", default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the job ended.
    #[serde(rename = "en", default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it ended, as a code: `retries_exhausted`, `worker_lost`, `purged`, …
    #[serde(rename = "wy", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Attempts that did not succeed, oldest first, at most [`limits::ATTEMPT_NOTES`].
    #[serde(rename = "an", default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<AttemptNote>,
    /// Where the last attempt's time went.
    #[serde(rename = "rc", default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// The result, when it is small; a bigger one lies beside the record.
    #[serde(rename = "rs", default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// 8 bytes of the arguments' hash.
    #[serde(rename = "ah", default, skip_serializing_if = "is_default")]
    pub args_hash: u64,
    /// Copies that came with other arguments.
    #[serde(rename = "cf", default, skip_serializing_if = "is_default")]
    pub conflicts: u32,
    /// Cancel was asked for at this time.
    #[serde(rename = "ca", default, skip_serializing_if = "Option::is_none")]
    pub cancel_asked: Option<Timestamp>,
    /// A successor is decided, its confirm not written.
    #[serde(rename = "su", default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Successor>,
    /// The entry lives in the job's own record now.
    #[serde(rename = "mv", default, skip_serializing_if = "is_default")]
    pub moved: bool,
    /// The job no longer holds its parcel.
    #[serde(rename = "dt", default, skip_serializing_if = "is_default")]
    pub detached: bool,
    /// Who is told when the job ends.
    #[serde(rename = "mb", default, skip_serializing_if = "Vec::is_empty")]
    pub waiters: Vec<Mailbox>,
    /// Tags.
    #[serde(rename = "tg", default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Entry {
    /// What an accepted job's entry says: it follows from the copy alone.
    #[must_use]
    pub fn accepted(copy: &JobCopy) -> Self {
        let core = &copy.core;
        Self {
            index: if copy.hop.hand == 0 { core.id.index() } else { 0 },
            state: if copy.hop.attempts > copy.hop.attempts_before && copy.due().is_some() {
                State::Retrying
            } else if copy.due().is_some() {
                State::Scheduled
            } else {
                State::Queued
            },
            hand: copy.hop.hand,
            attempts: copy.hop.attempts,
            task: core.task.clone(),
            enqueued_at: core.enqueued_at,
            due: copy.due(),
            expires: core.expires,
            claims: 0,
            token: 0,
            owner: None,
            deadline: None,
            deaths: copy.hop.deaths,
            crashes: 0,
            parked: None,
            started: None,
            ended: None,
            reason: None,
            notes: Vec::new(),
            receipt: None,
            result: None,
            args_hash: copy.args_hash(),
            conflicts: 0,
            cancel_asked: None,
            leaving: None,
            moved: false,
            detached: false,
            waiters: core.mailbox.into_iter().collect(),
            tags: core.tags.clone(),
        }
    }

    /// The fence of the newest claim.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence {
            hand: self.hand,
            claim: self.claims,
            token: self.token,
        }
    }

    /// Adds a note, dropping the oldest beyond [`limits::ATTEMPT_NOTES`].
    pub fn note(&mut self, note: AttemptNote) {
        if self.notes.len() >= limits::ATTEMPT_NOTES {
            self.notes.remove(0);
        }
        self.notes.push(note);
    }

    /// Remembers whom to tell of the end. Answers whether that is new; nobody is told of an end that was before.
    pub fn listen(&mut self, mailbox: Mailbox) -> bool {
        if self.state.is_ended() || self.waiters.contains(&mailbox) {
            return false;
        }
        // Who is forgotten here reads again by itself, only later.
        let surplus = (self.waiters.len() + 1).saturating_sub(limits::WAITERS);
        self.waiters.drain(..surplus);
        self.waiters.push(mailbox);
        true
    }

    /// Until when the entry is remembered; `None` while the job has not ended.
    #[must_use]
    pub fn keep_until(&self) -> Option<Timestamp> {
        let ended = self.ended?;
        Some(ended.plus(if self.state == State::Succeeded {
            limits::KEEP_SUCCEEDED
        } else {
            limits::KEEP_OTHERS
        }))
    }
}

/// Bytes that are no record.
#[derive(Debug, thiserror::Error)]
#[error("the record cannot be read: {0}")]
pub struct RecordError(String);

/// The entries of a parcel's jobs, swapped as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The record format's version.
    #[serde(rename = "v")]
    version: u8,
    /// The queue of all its jobs.
    #[serde(rename = "q")]
    pub queue: QueueName,
    /// Their class.
    #[serde(rename = "p")]
    pub class: Class,
    /// The entries, by index.
    #[serde(rename = "e")]
    pub entries: Vec<Entry>,
}

impl Record {
    /// The version of the record format that this build writes.
    pub const VERSION: u8 = 1;

    /// An empty record for jobs of this queue and class.
    #[must_use]
    pub fn new(queue: QueueName, class: Class) -> Self {
        Self {
            version: Self::VERSION,
            queue,
            class,
            entries: Vec::new(),
        }
    }

    /// The entry of `id` in the record under `key`.
    #[must_use]
    pub fn entry(&self, key: RecordKey, id: JobId) -> Option<&Entry> {
        let index = slot(key, id);
        self.entries.iter().find(|e| e.index == index)
    }

    /// Puts `entry` in its place.
    pub fn put(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|e| e.index == entry.index) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Never with these types; the encoder's signature asks for it.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = Vec::with_capacity(512);
        self.append_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends its bytes.
    ///
    /// # Errors
    /// Never with these types; the encoder's signature asks for it.
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> Result<(), RecordError> {
        rmp_serde::encode::write_named(bytes, self).map_err(|e| RecordError(e.to_string()))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When the bytes are malformed or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        scan(bytes).map_err(|e| RecordError(e.to_string()))?;
        let record: Self = rmp_serde::from_slice(bytes).map_err(|e| RecordError(e.to_string()))?;
        if record.version > Self::VERSION {
            return Err(RecordError(format!(
                "its version {} is newer than this build reads",
                record.version
            )));
        }
        Ok(record)
    }

    /// Until when it is remembered: as long as its longest-lived entry; `None` while a job in it
    /// has not ended.
    #[must_use]
    pub fn keep_until(&self) -> Option<Timestamp> {
        let mut latest = Timestamp::default();
        for entry in &self.entries {
            // A moved entry's own record is younger; the pointer lives the longest retention.
            let until = if entry.moved {
                entry.enqueued_at.plus(limits::KEEP_OTHERS)
            } else {
                entry.keep_until()?
            };
            latest = latest.max(until);
        }
        Some(latest)
    }
}

/// The index under which the entry of `id` stands in the record under `key`.
#[must_use]
pub fn slot(key: RecordKey, id: JobId) -> u16 {
    match key {
        RecordKey::Parcel(_) => id.index(),
        RecordKey::Own(_) => 0,
    }
}
