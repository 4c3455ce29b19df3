//! Reading single fields out of a scanned map, and writing them.

use rmp::encode as put;

use super::WireError;
use super::prescan;

/// A map with more keys is searched for one that stands twice by sorting: who sends a hundred thousand
/// keys must not be paid with their square in comparisons.
const FEW: usize = 32;

/// The fields of a map, as raw values in the order they stand; a key that stands twice is an error.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
    twice: Twice<'a>,
}

/// How a key that stands twice is found.
enum Twice<'a> {
    /// Among few keys: those that were read.
    Seen(Vec<&'a str>),
    /// Among many: how many bytes are left at the first key that stood before.
    At(Option<usize>),
}

impl<'a> Fields<'a> {
    /// Starts on `bytes`, which begin with a map; also answers the map's length in bytes.
    pub(super) fn of(bytes: &'a [u8]) -> Result<(Self, usize), WireError> {
        let end = prescan::value(bytes)?;
        let mut rest = &bytes[..end];
        let left = rmp::decode::read_map_len(&mut rest).map_err(|_| wrong("", "a map"))? as usize;
        let twice = if left > FEW {
            Twice::At(first_twice(rest, left))
        } else {
            Twice::Seen(Vec::new())
        };
        Ok((Self { rest, left, twice }, end))
    }

    fn read(&mut self) -> Result<(&'a str, &'a [u8]), WireError> {
        let at = self.rest.len();
        let (key, rest) = text_key(self.rest)?;
        let (value, rest) = rest.split_at(prescan::value(rest)?);
        let twice = match &self.twice {
            Twice::Seen(keys) => keys.contains(&key),
            Twice::At(twice) => *twice == Some(at),
        };
        if twice {
            return Err(WireError::Twice(shown(key)));
        }
        if let Twice::Seen(keys) = &mut self.twice {
            keys.push(key);
        }
        self.rest = rest;
        Ok((key, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a str, &'a [u8]), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self.read();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

fn text_key(bytes: &[u8]) -> Result<(&str, &[u8]), WireError> {
    rmp::decode::read_str_from_slice(bytes).map_err(|_| wrong("", "a text key"))
}

/// Where, among the `count` fields of `bytes`, the first key stands that stood before: the bytes that
/// are left there. Hashes are sorted, and only keys with the same one are compared; it takes 8 bytes a
/// field.
fn first_twice(bytes: &[u8], count: usize) -> Option<usize> {
    let mut places = Vec::with_capacity(count);
    let mut rest = bytes;
    for _ in 0..count {
        // What cannot be read is an error when its turn comes.
        let Ok((key, value)) = text_key(rest) else { break };
        let Ok(end) = prescan::value(value) else { break };
        places.push((hash(key), u32::try_from(rest.len()).ok()?));
        rest = &value[end..];
    }
    places.sort_unstable();
    let key = |left: u32| text_key(&bytes[bytes.len() - left as usize..]).map_or("", |(key, _)| key);
    let alike = places.chunk_by_mut(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1);
    alike
        .filter_map(|alike| {
            // Of equal keys, the one that stands first has the most bytes left.
            alike.sort_unstable_by(|a, b| key(a.1).cmp(key(b.1)).then(b.1.cmp(&a.1)));
            let pairs = alike.windows(2).filter(|pair| key(pair[0].1) == key(pair[1].1));
            pairs.map(|pair| pair[1].1 as usize).max()
        })
        .max()
}

/// FNV-1a.
fn hash(key: &str) -> u32 {
    key.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// A key as an error and a reason show it: each job of a parcel may hold one.
pub(super) fn shown(key: &str) -> String {
    key.chars().take(64).collect()
}

/// Keys that must be understood and are not, of one map: so many are told of, and one is enough to park.
const NOTED: usize = 8;

/// Notes such a key.
pub(super) fn note(keys: &mut Vec<String>, key: &str) {
    if keys.len() < NOTED {
        keys.push(shown(key));
    }
}

pub(super) fn wrong(field: &str, expected: &'static str) -> WireError {
    WireError::Field {
        field: shown(field),
        expected,
    }
}

pub(super) fn text<'a>(field: &str, value: &'a [u8]) -> Result<&'a str, WireError> {
    rmp::decode::read_str_from_slice(value)
        .map(|(text, _)| text)
        .map_err(|_| wrong(field, "text"))
}

pub(super) fn uint(field: &str, mut value: &[u8]) -> Result<u64, WireError> {
    rmp::decode::read_int(&mut value).map_err(|_| wrong(field, "a whole number that is not negative"))
}

pub(super) fn small(field: &str, value: &[u8]) -> Result<u32, WireError> {
    // Room is left to count on: what is added to it later must not overflow.
    let number = i32::try_from(uint(field, value)?).map_err(|_| wrong(field, "a number below 2^31"))?;
    Ok(number.unsigned_abs())
}

pub(super) fn bin<'a>(field: &str, value: &'a [u8]) -> Result<&'a [u8], WireError> {
    let mut rest = value;
    let len = rmp::decode::read_bin_len(&mut rest).map_err(|_| wrong(field, "binary"))?;
    rest.get(..len as usize).ok_or(WireError::Short)
}

pub(super) fn bytes16(field: &str, value: &[u8]) -> Result<[u8; 16], WireError> {
    bin(field, value)?
        .try_into()
        .map_err(|_| wrong(field, "binary of 16 bytes"))
}

pub(super) fn time(field: &str, value: &[u8]) -> Result<crate::Timestamp, WireError> {
    let time = i64::try_from(uint(field, value)?).map(crate::Timestamp::from_micros);
    time.ok()
        .filter(|t| t.is_plausible())
        .ok_or_else(|| wrong(field, "a time in microseconds between 2001 and 9999"))
}

// Writing into a Vec cannot fail: the results of `rmp::encode` are about the writer.

pub(super) fn put_map(out: &mut Vec<u8>, len: usize) {
    let _ = put::write_map_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

pub(super) fn put_array(out: &mut Vec<u8>, len: usize) {
    let _ = put::write_array_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let _ = put::write_str(out, text);
}

pub(super) fn put_uint(out: &mut Vec<u8>, number: u64) {
    let _ = put::write_uint(out, number);
}

pub(super) fn put_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    let _ = put::write_bin(out, bytes);
}

pub(super) fn put_time(out: &mut Vec<u8>, time: crate::Timestamp) {
    put_uint(out, u64::try_from(time.as_micros()).unwrap_or(0));
}
