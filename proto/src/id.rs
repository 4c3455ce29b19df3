//! Ids of jobs, and where the record of a job lives.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

/// The low bits of a Millhand id that hold the job's index in its parcel.
const INDEX_BITS: u32 = 10;
const INDEX_MASK: u128 = (1 << INDEX_BITS) - 1;

/// Names given by people become ids in this UUID namespace (version 5).
const GIVEN_NAMES: Uuid = Uuid::from_u128(0x6d69_6c6c_6861_6e64_8000_6769_7665_6e00);

/// The id of a job: a UUID made by the client, so that enqueueing twice with one id is one job.
///
/// Ids made by Millhand are version 8, laid out as version 7 (48 bits of milliseconds first), and
/// their low 10 bits are the job's index in its parcel. Every other UUID is taken as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// The id of job `index` of a parcel, from the time and 8 random bytes that its parcel shares.
    ///
    /// # Panics
    /// When `index` is 1,024 or more: a parcel holds at most 1,024 jobs.
    #[must_use]
    pub fn minted(at: Timestamp, random: u64, index: u16) -> Self {
        assert!(u128::from(index) <= INDEX_MASK, "a parcel holds at most 1,024 jobs");
        let millis = u128::try_from(at.as_micros() / 1000).unwrap_or(0) & ((1 << 48) - 1);
        // 12 bits after the version, 52 bits after the variant before the index.
        let a = u128::from(random >> 52);
        let b = u128::from(random & ((1 << 52) - 1));
        let bits = (millis << 80) | (0x8 << 76) | (a << 64) | (0b10 << 62) | (b << INDEX_BITS);
        Self(Uuid::from_u128(bits | u128::from(index)))
    }

    /// An id from what a person gave: a UUID as it is, any other text as its version 5 UUID.
    #[must_use]
    pub fn given(text: &str) -> Self {
        Self(Uuid::parse_str(text).unwrap_or_else(|_| Uuid::new_v5(&GIVEN_NAMES, text.as_bytes())))
    }

    /// The id of a child that `parent` enqueues under `name`: the same in every run of the parent.
    #[must_use]
    pub fn child_of(parent: Self, name: &str) -> Self {
        Self(Uuid::new_v5(&parent.0, name.as_bytes()))
    }

    /// From 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether the low bits are an index, so that the job may share a parcel and its record.
    #[must_use]
    pub fn is_minted(self) -> bool {
        self.0.get_version_num() == 8 && self.0.get_variant() == uuid::Variant::RFC4122
    }

    /// The key of the parcel that the job was enqueued in: the id with its index cleared. A given
    /// id is its own key.
    #[must_use]
    pub fn parcel_key(self) -> Self {
        if self.is_minted() {
            Self(Uuid::from_u128(self.0.as_u128() & !INDEX_MASK))
        } else {
            self
        }
    }

    /// The job's index in its parcel; 0 for a given id.
    #[must_use]
    pub fn index(self) -> u16 {
        if self.is_minted() {
            u16::try_from(self.0.as_u128() & INDEX_MASK).unwrap_or(0)
        } else {
            0
        }
    }

    /// The id of job `index` beside this one in its parcel.
    #[must_use]
    pub fn sibling(self, index: u16) -> Self {
        if self.is_minted() {
            let bits = self.0.as_u128() & !INDEX_MASK | (u128::from(index) & INDEX_MASK);
            Self(Uuid::from_u128(bits))
        } else {
            self
        }
    }

    /// The record that holds the job's entry at `hand`.
    ///
    /// Hand 0 of a minted id lives in its parcel's record, later hands in a record of their own;
    /// every other id always in the record under its own key.
    #[must_use]
    pub fn record_at(self, hand: u32) -> RecordKey {
        if self.is_minted() && hand > 0 {
            RecordKey::Own(self)
        } else {
            RecordKey::Parcel(self.parcel_key())
        }
    }
}

impl From<Uuid> for JobId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey {
    /// `p:<key>`: the record of a parcel, with the entries of all its jobs.
    Parcel(JobId),
    /// `o:<id>`: a job's own record, once a decided successor has left its parcel.
    Own(JobId),
}

impl RecordKey {
    /// The key as 17 bytes: `p` or `o`, then the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 17] {
        let (kind, id) = match self {
            Self::Parcel(id) => (b'p', id),
            Self::Own(id) => (b'o', id),
        };
        let mut bytes = [kind; 17];
        bytes[1..].copy_from_slice(id.as_bytes());
        bytes
    }
}

/// One boot of one process: a worker's name as the owner of jobs, and the mailbox that it reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mailbox(Uuid);

impl Mailbox {
    /// A new mailbox, from 16 random bytes.
    #[must_use]
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(random).into_uuid())
    }

    /// From 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads what `Display` wrote; `None` when it is no UUID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A worker's boot, by the mailbox that only it reads.
pub type WorkerId = Mailbox;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_carry_time_version_and_index() {
        let at = Timestamp::from_micros(1_790_000_000_123_456);
        let id = JobId::minted(at, u64::MAX, 1023);
        assert!(id.is_minted());
        assert_eq!(id.index(), 1023);
        assert_eq!(id.parcel_key().index(), 0);
        assert_eq!(id.parcel_key(), JobId::minted(at, u64::MAX, 0));
        assert_eq!(id.parcel_key().sibling(1023), id);
        assert_eq!(id.0.as_u128() >> 80, 1_790_000_000_123);
        assert!(JobId::minted(at, 0, 0) < JobId::minted(at.plus(std::time::Duration::from_millis(1)), 0, 0));
    }

    #[test]
    fn where_an_entry_lives_follows_from_id_and_hand() {
        let id = JobId::minted(Timestamp::MIN_WIRE, 7, 3);
        assert_eq!(id.record_at(0), RecordKey::Parcel(id.parcel_key()));
        assert_eq!(id.record_at(1), RecordKey::Own(id));
        let given = JobId::given("invoice 7");
        assert_eq!(given, JobId::given("invoice 7"));
        assert_eq!(given.record_at(5), RecordKey::Parcel(given));
        let uuid = "0190b7a0-0000-7000-8000-000000000001";
        assert_eq!(JobId::given(uuid).to_string(), uuid);
        assert_eq!(JobId::given(uuid).index(), 0, "version 7 is no parcel's");
    }
}
