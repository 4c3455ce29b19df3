//! What may happen to a job's record, as data. A change may be applied again: to what another process
//! wrote meanwhile, or after a lost answer.

use std::sync::Arc;

use bytes::Bytes;
use millhand_proto::protocol::{End, Meeting, Situation, Written};
use millhand_proto::{
    AttemptNote, Fence, JobCopy, JobId, Leaving, Mailbox, Payload, QueueName, Receipt, Record, RecordKey, Successor,
    Timestamp, WorkerId,
};

use crate::backend::Acted;

/// One change of one job's entry.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Claim {
        copy: JobCopy,
        situation: Situation,
        /// When its queue was purged last.
        purged: Option<Timestamp>,
    },
    End {
        copy: JobCopy,
        fence: Fence,
        end: End,
        /// A result that lies beside the record.
        big: Option<Bytes>,
        receipt: Receipt,
        log: Option<Bytes>,
    },
    Leave {
        copy: JobCopy,
        fence: Option<Fence>,
        successor: Successor,
        reason: Option<String>,
        note: Option<AttemptNote>,
        receipt: Option<Receipt>,
        log: Option<Bytes>,
    },
    /// The successor is in the queue. A death brings the bytes that are kept.
    Confirm {
        copy: JobCopy,
        published: Successor,
        body: Option<Bytes>,
    },
    GiveBack {
        copy: JobCopy,
        fence: Fence,
        worker: WorkerId,
    },
    Detach {
        copy: JobCopy,
    },
    Cancel {
        id: JobId,
    },
    /// An operator's retry of the death at this hand is in the queue.
    Retried {
        id: JobId,
        copy: JobCopy,
        hand: u32,
    },
    Drop {
        id: JobId,
    },
    Listen {
        id: JobId,
        mailbox: Mailbox,
    },
    /// It cannot be read; it is dead unless another copy says more.
    Unreadable {
        id: JobId,
        queue: QueueName,
        reason: String,
    },
    /// A copy lies in the dead queue: without a record, or with an older one, it is dead.
    Dead {
        copy: JobCopy,
        body: Bytes,
    },
    /// The store may have lost what this process wrote: the entries of its own that were newer.
    Restore {
        key: RecordKey,
        record: Arc<Record>,
    },
}

/// What a change answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Met(Meeting),
    Written(Written),
    /// Whether the present copy may be acknowledged.
    Confirmed(bool),
    Acted(Acted),
    /// First it must be known whether this worker lives.
    AskOf(WorkerId),
}

impl Change {
    /// The parcel whose records it concerns.
    pub(super) fn parcel(&self) -> JobId {
        match self {
            Self::Claim { copy, .. }
            | Self::End { copy, .. }
            | Self::Leave { copy, .. }
            | Self::Confirm { copy, .. }
            | Self::GiveBack { copy, .. }
            | Self::Dead { copy, .. }
            | Self::Detach { copy } => copy.id().parcel_key(),
            Self::Cancel { id }
            | Self::Retried { id, .. }
            | Self::Drop { id }
            | Self::Listen { id, .. }
            | Self::Unreadable { id, .. } => id.parcel_key(),
            Self::Restore {
                key: RecordKey::Parcel(id) | RecordKey::Own(id),
                ..
            } => id.parcel_key(),
        }
    }

    /// The records that it looks at.
    pub(super) fn keys(&self) -> Keys {
        match self {
            Self::Claim { copy, .. }
            | Self::End { copy, .. }
            | Self::Leave { copy, .. }
            | Self::GiveBack { copy, .. }
            | Self::Detach { copy } => keys(copy.id().record_at(copy.hop.hand), None),
            Self::Confirm { copy, published, .. } => {
                let here = copy.id().record_at(copy.hop.hand);
                let next = copy.id().record_at(copy.hop.hand + 1);
                keys(here, (published.why != Leaving::Death).then_some(next))
            }
            Self::Cancel { id }
            | Self::Retried { id, .. }
            | Self::Drop { id }
            | Self::Listen { id, .. }
            | Self::Unreadable { id, .. } => places(*id),
            Self::Dead { copy, .. } => places(copy.id()),
            Self::Restore { key, .. } => keys(*key, None),
        }
    }
}

/// One record, or two.
pub(super) type Keys = std::iter::Flatten<std::array::IntoIter<Option<RecordKey>, 2>>;

fn keys(one: RecordKey, other: Option<RecordKey>) -> Keys {
    [Some(one), other.filter(|other| *other != one)].into_iter().flatten()
}

/// Where entries of a job may live, in the order of hands.
pub(super) fn places(id: JobId) -> Keys {
    keys(id.record_at(0), Some(id.record_at(1)))
}

/// A payload as it lies beside its record: the codec's number, then the bytes.
pub(super) fn beside(payload: &Payload) -> Bytes {
    let mut body = Vec::with_capacity(payload.bytes.len() + 1);
    body.push(payload.codec.number());
    body.extend_from_slice(&payload.bytes);
    body.into()
}

/// Reads what [`beside`] wrote.
pub(super) fn read_beside(body: &Bytes) -> Option<Payload> {
    let codec = (*body.first()?).try_into().ok()?;
    Some(Payload {
        codec,
        bytes: body.slice(1..),
    })
}
