//! The hop of a job: what changes from copy to copy.

use super::WireError;
use super::value::{self, Fields};
use crate::time::Timestamp;

/// Since when and how often a job was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// When it was parked first.
    pub since: Timestamp,
    /// How often it was parked.
    pub times: u32,
}

/// The mutable part of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// `h`: the hand, + 1 with every decided successor.
    pub hand: u32,
    /// `n`: attempts that were made before this copy.
    pub attempts: u32,
    /// `ab`: attempts made before the last operator's retry; policy counts `n - ab`.
    pub attempts_before: u32,
    /// `du`: due at; rules over the core's not-before.
    pub due: Option<Timestamp>,
    /// `de`: workers that died under the job at this hand.
    pub deaths: u32,
    /// `pk`: parked since, and how often.
    pub parked: Option<Parked>,
    /// `bz`: how often the job was met busy.
    pub busy: u32,
    /// `fe`: the first error, shortened.
    pub first_error: Option<String>,
    /// `ev`: the version that the record is expected to have.
    pub expected_version: Option<[u8; 8]>,
    /// Fields that this build does not know.
    pub(crate) extra: Extra,
    /// Unknown keys that must be understood, the first few.
    pub(crate) not_understood: Vec<String>,
}

/// Unknown fields: how many, and all their keys and values as one run of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    fields: usize,
    bytes: Vec<u8>,
}

impl Hop {
    /// Reads the map at the start of `bytes`; answers its length too.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let (fields, end) = Fields::of(bytes)?;
        let mut hop = Self::default();
        for field in fields {
            let (key, value) = field?;
            match key {
                "h" => hop.hand = value::small(key, value)?,
                "n" => hop.attempts = value::small(key, value)?,
                "ab" => hop.attempts_before = value::small(key, value)?,
                "du" => hop.due = Some(value::time(key, value)?),
                "de" => hop.deaths = value::small(key, value)?,
                "pk" => {
                    let wrong = || WireError::Field {
                        field: "pk".into(),
                        expected: "a list of time and count",
                    };
                    let (since, times): (i64, u32) = rmp_serde::from_slice(value).map_err(|_| wrong())?;
                    let since = Timestamp::from_micros(since);
                    if !since.is_plausible() || i32::try_from(times).is_err() {
                        return Err(wrong());
                    }
                    hop.parked = Some(Parked { since, times });
                }
                "bz" => hop.busy = value::small(key, value)?,
                "fe" => hop.first_error = Some(value::text(key, value)?.chars().take(512).collect()),
                "ev" => {
                    let wrong = || WireError::Field {
                        field: "ev".into(),
                        expected: "binary of 8 bytes",
                    };
                    hop.expected_version = Some(value::bin(key, value)?.try_into().map_err(|_| wrong())?);
                }
                _ => {
                    if key.starts_with(|c: char| c.is_ascii_uppercase()) {
                        value::note(&mut hop.not_understood, key);
                    }
                    hop.extra.fields += 1;
                    value::put_text(&mut hop.extra.bytes, key);
                    hop.extra.bytes.extend_from_slice(value);
                }
            }
        }
        Ok((hop, end))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let numbers = [
            ("h", self.hand),
            ("n", self.attempts),
            ("ab", self.attempts_before),
            ("de", self.deaths),
            ("bz", self.busy),
        ];
        let known = numbers.iter().filter(|(_, n)| *n > 0).count()
            + usize::from(self.due.is_some())
            + usize::from(self.parked.is_some())
            + usize::from(self.first_error.is_some())
            + usize::from(self.expected_version.is_some());
        value::put_map(out, known + self.extra.fields);
        for (key, number) in numbers {
            if number > 0 {
                value::put_text(out, key);
                value::put_uint(out, u64::from(number));
            }
        }
        if let Some(due) = self.due {
            value::put_text(out, "du");
            value::put_time(out, due);
        }
        if let Some(parked) = self.parked {
            value::put_text(out, "pk");
            value::put_array(out, 2);
            value::put_time(out, parked.since);
            value::put_uint(out, u64::from(parked.times));
        }
        if let Some(error) = &self.first_error {
            value::put_text(out, "fe");
            value::put_text(out, error);
        }
        if let Some(version) = &self.expected_version {
            value::put_text(out, "ev");
            value::put_bin(out, version);
        }
        out.extend_from_slice(&self.extra.bytes);
    }
}
