//! The scan that runs before any decoder: one pass, no recursion, no allocation.

use super::WireError;
use crate::limits;

/// What a marker byte announces: bytes of payload after the header, and values inside.
struct Head {
    /// Bytes of marker and length.
    header: usize,
    /// Bytes that follow and are no values.
    payload: usize,
    /// Values that follow.
    values: usize,
}

fn be(bytes: &[u8], at: usize, width: usize) -> Result<usize, WireError> {
    let part = bytes.get(at..at + width).ok_or(WireError::Short)?;
    Ok(part.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b)))
}

fn head(bytes: &[u8]) -> Result<Head, WireError> {
    let marker = *bytes.first().ok_or(WireError::Short)?;
    let plain = |payload| {
        Ok(Head {
            header: 1,
            payload,
            values: 0,
        })
    };
    let sized = |width: usize, extra: usize| {
        Ok(Head {
            header: 1 + width,
            payload: be(bytes, 1, width)? + extra,
            values: 0,
        })
    };
    let nested = |width: usize, per: usize| {
        Ok(Head {
            header: 1 + width,
            payload: 0,
            values: be(bytes, 1, width)?.saturating_mul(per),
        })
    };
    match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => plain(0),
        0x80..=0x8f => Ok(Head {
            header: 1,
            payload: 0,
            values: usize::from(marker & 0x0f) * 2,
        }),
        0x90..=0x9f => Ok(Head {
            header: 1,
            payload: 0,
            values: usize::from(marker & 0x0f),
        }),
        0xa0..=0xbf => plain(usize::from(marker & 0x1f)),
        0xc1 => Err(WireError::Reserved),
        0xc4 | 0xd9 => sized(1, 0),
        0xc5 | 0xda => sized(2, 0),
        0xc6 | 0xdb => sized(4, 0),
        0xc7 => sized(1, 1),
        0xc8 => sized(2, 1),
        0xc9 => sized(4, 1),
        0xcc | 0xd0 => plain(1),
        0xcd | 0xd1 => plain(2),
        0xca | 0xce | 0xd2 => plain(4),
        0xcb | 0xcf | 0xd3 => plain(8),
        0xd4 => plain(2),
        0xd5 => plain(3),
        0xd6 => plain(5),
        0xd7 => plain(9),
        0xd8 => plain(17),
        0xdc => nested(2, 1),
        0xdd => nested(4, 1),
        0xde => nested(2, 2),
        0xdf => nested(4, 2),
    }
}

/// The length of the value that `bytes` starts with.
pub(crate) fn value(bytes: &[u8]) -> Result<usize, WireError> {
    // How many values are still to come at each level of nesting.
    let mut open = [0usize; limits::DEPTH];
    let mut depth = 0;
    let mut at = 0;
    loop {
        let head = head(bytes.get(at..).ok_or(WireError::Short)?)?;
        at += head.header;
        at = at
            .checked_add(head.payload)
            .filter(|end| *end <= bytes.len())
            .ok_or(WireError::Short)?;
        if head.values > bytes.len() - at {
            // Each value takes at least one byte.
            return Err(WireError::Short);
        }
        if head.values > 0 {
            *open.get_mut(depth).ok_or(WireError::TooDeep)? = head.values;
            depth += 1;
            continue;
        }
        loop {
            if depth == 0 {
                return Ok(at);
            }
            open[depth - 1] -= 1;
            if open[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
    }
}

/// Checks that `bytes` are exactly one well-formed value that nests at most
/// [`crate::limits::DEPTH`] levels.
///
/// # Errors
/// When they are not.
pub fn whole(bytes: &[u8]) -> Result<(), WireError> {
    let end = value(bytes)?;
    if end == bytes.len() {
        Ok(())
    } else {
        Err(WireError::Trailing(bytes.len() - end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_measured() {
        for value in [
            serde_json::json!([1, -1, 300, -300, 70000, -70000, 5_000_000_000_u64, -5_000_000_000_i64]),
            serde_json::json!({"a": [null, true, 1.5], "b": {"c": "x".repeat(300)}}),
            serde_json::json!("y".repeat(70_000)),
            serde_json::json!(vec![0; 70_000]),
        ] {
            let bytes = rmp_serde::to_vec_named(&value).unwrap();
            assert_eq!(whole(&bytes), Ok(()));
            assert_eq!(whole(&bytes[..bytes.len() - 1]), Err(WireError::Short));
            let mut more = bytes.clone();
            more.push(0xc0);
            assert_eq!(whole(&more), Err(WireError::Trailing(1)));
        }
    }

    #[test]
    fn bombs_are_refused_without_allocation_or_recursion() {
        assert_eq!(whole(&[]), Err(WireError::Short));
        assert_eq!(whole(&[0xc1]), Err(WireError::Reserved));
        assert_eq!(whole(&[0xdb, 0xff, 0xff, 0xff, 0xff]), Err(WireError::Short));
        assert_eq!(whole(&[0xdf, 0xff, 0xff, 0xff, 0xff]), Err(WireError::Short));
        let nested = |levels: usize| {
            let mut bytes = vec![0x91; levels];
            bytes.push(0xc0);
            bytes
        };
        assert_eq!(whole(&nested(limits::DEPTH)), Ok(()));
        assert_eq!(whole(&nested(limits::DEPTH + 1)), Err(WireError::TooDeep));
    }
}
