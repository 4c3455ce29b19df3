//! What the fuzz targets do with parcels and records; see `fuzz/README.md`. Compiled into tests and into
//! the targets only.

use bytes::Bytes;

use crate::record::{Entry, Record};
use crate::wire::Parcel;

/// Reads a parcel as a worker does.
pub fn read_parcel(data: &Bytes) {
    drop(Parcel::decode(data));
}

/// What can be read of a parcel is written and read again as the same; what cannot is said shortly.
pub fn parcel(data: &[u8]) {
    let Ok(opened) = Parcel::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    for bad in &opened.bad {
        assert!(bad.error.to_string().len() < 1024, "an error is a sentence");
    }
    let Some(parcel) = opened.parcel else { return };
    let written = Bytes::from(parcel.encode());
    let again = Parcel::decode(&written).map(|opened| (opened.parcel, opened.bad));
    assert_eq!(again, Ok((Some(parcel.clone()), vec![])));
    assert_eq!(parcel.encode(), written);

    let mut remembered = Record::new(parcel.queue().clone(), parcel.class());
    for job in parcel.jobs() {
        assert!(job.not_understood().all(|key| key.chars().count() <= 64));
        remembered.put(Entry::accepted(job));
        if let Some(args) = job.args() {
            drop(args.to_json());
        }
    }
    record(&remembered.encode().unwrap_or_default());
}

/// The same of a record.
pub fn record(data: &[u8]) {
    let Ok(record) = Record::decode(data) else { return };
    let written = record.encode().unwrap_or_default();
    assert_eq!(Record::decode(&written).ok(), Some(record));
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_parcels() {
        // A parcel of 1,024 jobs, each as short as it can be, is read into values of a fixed size.
        replay::corpus(
            "parcel",
            1 << 20,
            |data| read_parcel(&Bytes::copy_from_slice(data)),
            parcel,
        );
    }

    #[test]
    fn the_corpus_of_records() {
        replay::corpus("record", 1 << 20, |data| drop(Record::decode(data)), record);
    }
}
