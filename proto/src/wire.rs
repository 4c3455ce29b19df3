//! The wire: how parcels are written and read. `docs/wire.md` says it for other languages.
//!
//! Nothing here trusts what it reads: every byte is scanned before a decoder runs, lengths are
//! checked against the bytes that are there, and nothing is allocated from a declared length.

mod core;
mod hop;
mod parcel;
pub(crate) mod prescan;
mod value;

pub use self::core::Core;
pub use self::hop::{Hop, Parked};
pub use self::parcel::{BadJob, JobCopy, Opened, Parcel};
pub use self::prescan::whole as scan;

/// The version of the wire that this build writes.
pub const VERSION: u8 = 1;

/// Bytes that are not what the wire allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("the bytes end inside a value")]
    Short,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Values nest deeper than [`crate::limits::DEPTH`].
    #[error("values nest deeper than 64 levels")]
    TooDeep,
    /// More bytes than a message may have.
    #[error("{0} bytes are more than a message may have")]
    TooLong(usize),
    /// The marker 0xc1, which MessagePack reserves.
    #[error("the reserved marker 0xc1")]
    Reserved,
    /// A field holds something else than it must.
    #[error("field {field:?} is not {expected}")]
    Field {
        /// The field's key.
        field: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A field is missing.
    #[error("field {0:?} is missing")]
    Missing(&'static str),
    /// A key stands twice in one map.
    #[error("field {0:?} stands twice")]
    Twice(String),
    /// The parcel's version is newer than this build reads.
    #[error("wire version {0} is newer than this build reads ({VERSION})")]
    Newer(u64),
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] crate::name::NameError),
    /// The jobs of one parcel do not belong together.
    #[error("the jobs do not belong into one parcel: {0}")]
    Mixed(&'static str),
}
