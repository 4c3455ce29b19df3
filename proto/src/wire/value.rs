//! Reading single fields out of a scanned map, and writing them.

use rmp::encode as put;

use super::WireError;
use super::prescan;

/// The fields of a map, as raw values in the order they stand; a key that stands twice is an error.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
    seen: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    /// Starts on `bytes`, which begin with a map; also answers the map's length in bytes.
    pub(super) fn of(bytes: &'a [u8]) -> Result<(Self, usize), WireError> {
        let end = prescan::value(bytes)?;
        let mut rest = &bytes[..end];
        let left = rmp::decode::read_map_len(&mut rest).map_err(|_| WireError::Field {
            field: String::new(),
            expected: "a map",
        })?;
        Ok((
            Self {
                rest,
                left: left as usize,
                seen: Vec::new(),
            },
            end,
        ))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a str, &'a [u8]), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut read = || {
            let (key, rest) = rmp::decode::read_str_from_slice(self.rest).map_err(|_| WireError::Field {
                field: String::new(),
                expected: "a text key",
            })?;
            let end = prescan::value(rest)?;
            let (value, rest) = rest.split_at(end);
            self.rest = rest;
            if self.seen.contains(&key) {
                return Err(WireError::Twice(key.to_owned()));
            }
            self.seen.push(key);
            Ok((key, value))
        };
        let item = read();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

fn wrong(field: &str, expected: &'static str) -> WireError {
    WireError::Field {
        field: field.to_owned(),
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
