//! What remembers: versioned bytes under keys, swapped in groups, with effects as data. It knows
//! no rule of the protocol.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{JobId, Mailbox, QueueName, RecordKey, State, TaskName, Timestamp, WorkerId};
use tokio::sync::mpsc;

use crate::backend::{BoxFuture, Mail};
use crate::error::Result;

/// The store under the pair. Every call takes a batch; calls may run side by side.
pub(crate) trait Store: Send + Sync + Debug {
    /// Where it is, without secrets.
    fn place(&self) -> String;
    /// The time by its clock, as measured with the newest pulse.
    fn now(&self) -> Timestamp;
    /// Carries out each swap, or answers what stands in its place. A call that fails may have been
    /// carried out.
    fn swap(&self, swaps: Vec<Swap>) -> BoxFuture<'_, Result<Vec<Swapped>>>;
    /// Reads; one answer each, in order.
    fn read(&self, reads: Vec<Read>) -> BoxFuture<'_, Result<Vec<Found>>>;
    /// Opens a mailbox. [`Mail::Lost`] comes when messages may have been lost.
    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>>;
    /// Measures the clock and reads which memory this is.
    fn pulse(&self) -> BoxFuture<'_, Result<Epoch>>;
    /// Connections that were made so far; a new one means that the store was away.
    fn connections(&self) -> u64;
    /// How many shards the keys are spread over.
    fn shards(&self) -> u16;
}

/// The mailbox that every process reads: pauses are told there.
pub(crate) const EVERYBODY: Mailbox = Mailbox::from_bytes([0; 16]);

/// Which memory a store has. It changes when the store was restarted, flushed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// Drawn once for a memory; gone with it.
    pub(crate) memory: Bytes,
    /// The server's boot.
    pub(crate) boot: Bytes,
}

/// 8 random bytes, drawn by who writes; never a counter, which would repeat after a flush.
pub(crate) type Version = [u8; 8];

/// The version of every *accepted* record: its bytes follow from the parcel alone.
pub(crate) const ACCEPTED: Version = *b"accepted";

/// Where something lies. All keys of one job share its parcel's shard, so that one script call may
/// touch them together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A record.
    Record(RecordKey),
    /// A big result.
    Result(JobId),
    /// The bytes of a delayed parcel, under its parcel key.
    Delayed(JobId),
    /// The bytes of a dead job's copy.
    Dead(JobId),
    /// The log of a job's newest attempt that ended.
    Log(JobId),
    /// Ids of jobs that succeeded in these ten minutes, of one task.
    Succeeded(u16, TaskName, u64),
    /// Ids of jobs that came into this state, newest last; capped.
    Index(u16, State),
    /// Parcels accepted in these ten minutes for one queue: 16 bytes of id, 2 of how many jobs.
    Accepted(u16, QueueName, u64),
    /// A worker's lease, with what it says of itself.
    Lease(WorkerId),
    /// Fields: workers, each with the time of its newest beat.
    Workers,
    /// Fields: queues, each with when it was used last.
    Queues,
    /// Fields: tasks, each with when one of its jobs ended last.
    Tasks,
    /// Fields: queues, each with its pause and purge.
    Control,
    /// Fields: the numbers of one minute, by queue, task and part.
    Minute(u64),
    /// This piece of the numbers with this token was added.
    Flushed(u64, usize),
    /// Fields: queues, each with when it was seen empty last.
    Empty,
    /// Notes of messages that could not be read; capped.
    Unreadable,
    /// Who looks after lost and dead copies for now.
    Caretaker,
}

/// A record, or something else with a version, that is to be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) expected: Expected,
    /// Version and bytes; `None` deletes.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) keep: Duration,
}

/// What must stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing.
    Absent,
    /// Nothing, or what an enqueue wrote: both say the same.
    Fresh,
    /// This version.
    Version(Version),
}

/// Writes of one shard that happen together or not at all, and what happens with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swap {
    pub(crate) writes: Vec<Write>,
    pub(crate) effects: Vec<Effect>,
}

/// What happens beside a swap. None of it decides anything, and all of it may happen twice.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Puts bytes beside the record.
    Put(Key, Bytes, Duration),
    /// Takes them away.
    Delete(Key),
    /// Appends to a list that expires as a whole, so long after its first entry.
    Append(Key, Bytes, Duration),
    /// Appends to a list that holds so many, and expires so long after its last entry.
    AppendCapped(Key, Bytes, Duration, usize),
    /// Sets a field.
    Field(Key, String, Bytes, Duration),
    /// Takes a field away.
    Unfield(Key, String),
    /// Adds to a field's number.
    Add(Key, String, u64, Duration),
    /// Tells a mailbox.
    Post(Mailbox, Mail),
}

impl Effect {
    /// How many bytes it brings.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put(_, bytes, _)
            | Self::Append(_, bytes, _)
            | Self::AppendCapped(_, bytes, ..)
            | Self::Field(_, _, bytes, _) => bytes.len(),
            Self::Delete(_) | Self::Unfield(..) | Self::Add(..) | Self::Post(..) => 0,
        }
    }
}

/// What became of a swap.
#[derive(Clone, Debug)]
pub(crate) enum Swapped {
    Done,
    /// Nothing was written: these are the bytes that stand there, write by write.
    Current(Vec<Option<Bytes>>),
}

/// What to read.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    /// The bytes under a key.
    Get(Key),
    /// The newest entries of a list, oldest first: so many, after passing over so many.
    Tail { key: Key, skip: usize, count: usize },
    /// All fields.
    Fields(Key),
}

/// What was read.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Bytes(Option<Bytes>),
    List(Vec<Bytes>),
    Fields(Vec<(String, Bytes)>),
}

impl Found {
    pub(crate) fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::List(_) | Self::Fields(_) => None,
        }
    }

    pub(crate) fn list(self) -> Vec<Bytes> {
        match self {
            Self::List(list) => list,
            Self::Bytes(_) | Self::Fields(_) => Vec::new(),
        }
    }

    pub(crate) fn fields(self) -> Vec<(String, Bytes)> {
        match self {
            Self::Fields(fields) => fields,
            Self::Bytes(_) | Self::List(_) => Vec::new(),
        }
    }
}

/// The shard of all keys of the jobs of one parcel (FNV-1a of the parcel's key).
pub(crate) fn shard_of(parcel: JobId, shards: u16) -> u16 {
    let hash = parcel.as_bytes().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    u16::try_from(hash % u32::from(shards.max(1))).unwrap_or(0)
}
