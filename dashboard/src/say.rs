//! How figures are written on the pages. Unknown is `—`, zero is `0`.

use std::time::Duration;

use millhand_proto::words::{grouped, human, plural};
use millhand_proto::{Histogram, Timestamp};

/// What stands where nothing is known.
pub(crate) const UNKNOWN: &str = "—";

/// Samples that a p95 and a p99 need to mean something.
pub(crate) const ENOUGH: [(f64, u64); 3] = [(0.5, 1), (0.95, 20), (0.99, 100)];

/// Exact to 99,999, then in three figures.
pub(crate) fn count(number: u64) -> String {
    let scaled = |unit: f64, letter| {
        let figure = number as f64 / unit;
        let places = if figure < 10.0 { 2 } else { usize::from(figure < 100.0) };
        format!("{figure:.places$} {letter}")
    };
    match number {
        0..100_000 => grouped(number),
        100_000..1_000_000 => scaled(1e3, 'k'),
        1_000_000..1_000_000_000 => scaled(1e6, 'M'),
        _ => scaled(1e9, 'G'),
    }
}

/// So many in a time, by the second, or by the minute or hour where that is under one.
pub(crate) fn rate(number: u64, over: Duration) -> String {
    let per_second = number as f64 / over.as_secs_f64().max(1.0);
    let figure = |value: f64| {
        let places = usize::from(value < 99.95);
        format!("{value:.places$}")
    };
    if number == 0 {
        "0/s".into()
    } else if per_second >= 0.1 {
        format!("{}/s", figure(per_second))
    } else if per_second * 60.0 >= 0.1 {
        format!("{}/min", figure(per_second * 60.0))
    } else {
        format!("{}/h", figure(per_second * 3600.0))
    }
}

/// A part of a whole, with one decimal.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return UNKNOWN.into();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// A quantile, if there are enough samples for it.
pub(crate) fn quantile(of: &Histogram, q: f64) -> Option<Duration> {
    let enough = ENOUGH.iter().find(|(other, _)| *other >= q).map_or(0, |(_, n)| *n);
    of.quantile(q).filter(|_| of.count() >= enough)
}

/// A span, or that it is unknown.
pub(crate) fn span(span: Option<Duration>) -> String {
    span.map_or_else(|| UNKNOWN.into(), human)
}

/// An age: seconds are as fine as a page that changes every 2 s can tell.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let age = now.since(since);
    match age.as_secs() {
        0 => "now".into(),
        secs @ 1..60 => format!("{secs} s"),
        _ => human(age),
    }
}

/// Whole days, such as retentions have.
pub(crate) fn days(span: Duration) -> String {
    plural(span.as_secs() / 86_400, "day")
}

/// The time of day in UTC.
pub(crate) fn clock(at: Timestamp) -> String {
    format_time(at, "%H:%M:%S")
}

/// The time of day in UTC, to the minute.
pub(crate) fn minute(at: Timestamp) -> String {
    format_time(at, "%H:%M")
}

/// Day and time in UTC.
pub(crate) fn date(at: Timestamp) -> String {
    format_time(at, "%Y-%m-%d %H:%M:%S")
}

/// For programs.
pub(crate) fn iso(at: Timestamp) -> String {
    format_time(at, "%Y-%m-%dT%H:%M:%SZ")
}

fn format_time(at: Timestamp, how: &str) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros()).map_or_else(
        |_| UNKNOWN.into(),
        |at| at.to_zoned(jiff::tz::TimeZone::UTC).strftime(how).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_zero_is_not_unknown() {
        assert_eq!(
            [0, 99_999, 123_456, 1_240_000, 99_950_000].map(count),
            ["0", "99,999", "123 k", "1.24 M", "100.0 M"]
        );
        let minute = Duration::from_secs(60);
        assert_eq!(
            [0, 1, 6, 192].map(|n| rate(n, minute)),
            ["0/s", "1.0/min", "0.1/s", "3.2/s"]
        );
        assert_eq!(rate(3, minute * 60), "3.0/h");
        assert_eq!(
            (share(0, 0), share(0, 5), share(13, 1000)),
            (UNKNOWN.into(), "0.0 %".into(), "1.3 %".into())
        );
    }

    #[test]
    fn a_percentile_needs_its_samples() {
        let mut few = Histogram::default();
        for _ in 0..20 {
            few.record(Duration::from_millis(1));
        }
        let known = [0.5, 0.95, 0.99].map(|q| quantile(&few, q).is_some());
        assert_eq!(known, [true, true, false]);
    }

    #[test]
    fn times_are_in_utc() {
        let at = Timestamp::from_micros(1_927_857_906_789_012);
        assert_eq!((clock(at), minute(at)), ("04:05:06".into(), "04:05".into()));
        assert_eq!(iso(at), "2031-02-03T04:05:06Z");
        assert_eq!(age(at, at.plus(Duration::from_secs(41))), "41 s");
        assert_eq!(clock(Timestamp::from_micros(i64::MAX)), UNKNOWN);
    }
}
