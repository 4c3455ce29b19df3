//! Times and spans, as people write and read them.

use std::time::Duration;

use millhand_proto::Timestamp;
pub(crate) use millhand_proto::words::{compact, human};

/// Reads `500ms`, `30s`, `5m`, `2h`, `1d`, and several together (`1h30m`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 500ms, 30s, 5m, 2h, 1d or 1h30m");
    let mut rest = text;
    let mut whole = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis);
        whole = part.and_then(|p| whole.checked_add(p)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(whole)
}

/// A span from now, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// So long from now.
    In(Duration),
    /// Then.
    At(Timestamp),
}

/// Reads a duration or an RFC 3339 time.
pub(crate) fn when(text: &str) -> Result<When, String> {
    if let Ok(span) = duration(text) {
        return Ok(When::In(span));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        format!("{text:?} is neither a duration (30s, 5m, 2h, 1d) nor an RFC 3339 time (2031-02-03T04:05:06Z)")
    })?;
    Ok(When::At(Timestamp::from_micros(time.as_microsecond())))
}

/// A time as RFC 3339, in UTC, with milliseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    // Cut to whole milliseconds, since a time shown must not lie after the one meant.
    let micros = time.as_micros().div_euclid(1000) * 1000;
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => time.to_string(),
    }
}

/// A span in seconds, for programs.
pub(crate) fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_not() {
        let millis = |n| Ok(Duration::from_millis(n));
        for (text, want) in [
            ("500ms", millis(500)),
            ("30s", millis(30_000)),
            ("5m", millis(300_000)),
            ("2h", millis(7_200_000)),
            ("1d", millis(86_400_000)),
            ("1h30m", millis(5_400_000)),
            ("0s", millis(0)),
        ] {
            assert_eq!(duration(text), want, "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "5 m",
            "-5s",
            "5w",
            "1.5h",
            "99999999999999999999d",
            "18446744073709551615d",
            "é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_is_a_duration_or_rfc_3339() {
        assert_eq!(when("5m"), Ok(When::In(Duration::from_secs(300))));
        let at = Timestamp::from_micros(1_927_857_906_000_000);
        assert_eq!(when("2031-02-03T04:05:06Z"), Ok(When::At(at)));
        assert_eq!(when("2031-02-03T05:05:06+01:00"), Ok(When::At(at)));
        assert_eq!(
            rfc3339(at.plus(Duration::from_micros(1999))),
            "2031-02-03T04:05:06.001Z"
        );
        for bad in ["tomorrow", "2031-02-03", "2031-13-03T04:05:06Z", "2031-02-03T04:05:06"] {
            assert!(when(bad).is_err(), "{bad}");
        }
    }
}
