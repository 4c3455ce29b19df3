use crate::limits;
use crate::wire::{JobCopy, Parcel};

/// Whether a parcel that was redelivered so often must be split before anything in it runs: a job
/// in it may be what kills its workers.
#[must_use]
pub fn must_split(parcel: &Parcel, redeliveries: u32) -> bool {
    redeliveries >= limits::SPLIT_AFTER && parcel.jobs().len() > 1
}

/// Parcels of one job each, with hand and record as they were.
pub fn split(jobs: Vec<JobCopy>) -> impl Iterator<Item = Parcel> {
    jobs.into_iter().map(Parcel::of)
}
