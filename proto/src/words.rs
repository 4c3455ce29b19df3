//! How numbers are written for people, the same everywhere.

use std::time::Duration;

/// `12410` as `12,410`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 job`, `1,204 jobs`.
#[must_use]
pub fn plural(number: u64, one: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{} {one}s", grouped(number))
    }
}

/// Text that comes from elsewhere, made harmless to look at: control characters and marks
/// that turn the direction of writing are escaped; line ends stay when `lines`.
#[must_use]
pub fn clean(text: &str, lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' if lines => safe.push(c),
            '\t' if lines => safe.push_str("    "),
            _ if c.is_control() || turns => safe.extend(c.escape_default()),
            _ => safe.push(c),
        }
    }
    safe
}

/// A span for people, in three figures: `812 µs`, `4.80 ms`, `1.20 s`, `2 min 05 s`, `3 h 12 min`.
#[must_use]
pub fn human(span: Duration) -> String {
    let (number, unit, next) = parts(span);
    match next {
        Some((rest, small)) => format!("{number} {unit} {rest:02} {small}"),
        None => format!("{number} {unit}"),
    }
}

/// The same without blanks, for tables: `812µs`, `1.20s`, `2m05s`, `3h12m`.
#[must_use]
pub fn compact(span: Duration) -> String {
    let short = |unit: &'static str| if unit == "min" { "m" } else { unit };
    let (number, unit, next) = parts(span);
    match next {
        Some((rest, small)) => format!("{number}{}{rest:02}{}", short(unit), short(small)),
        None => format!("{number}{unit}"),
    }
}

type Parts = (String, &'static str, Option<(u64, &'static str)>);

fn parts(span: Duration) -> Parts {
    let micros = span.as_micros();
    let secs = span.as_secs();
    match micros {
        0..1_000 => (micros.to_string(), "µs", None),
        1_000..999_500 => (three(span.as_secs_f64() * 1e3), "ms", None),
        _ if micros < 59_950_000 => (three(span.as_secs_f64()), "s", None),
        _ => {
            let secs = secs.max(60);
            let pair = |big: u64, small: u64| ((secs / big).to_string(), secs % big / small);
            if secs < 3600 {
                let (n, rest) = pair(60, 1);
                (n, "min", Some((rest, "s")))
            } else if secs < 86_400 {
                let (n, rest) = pair(3600, 60);
                (n, "h", Some((rest, "min")))
            } else {
                let (n, rest) = pair(86_400, 3600);
                (n, "d", Some((rest, "h")))
            }
        }
    }
}

/// A number of at most 999 in three figures: `1.23`, `45.6`, `789`.
#[must_use]
pub fn three(number: f64) -> String {
    if number < 9.995 {
        format!("{number:.2}")
    } else if number < 99.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

/// Bytes in binary units: `812 B`, `4.2 KiB`, `512.0 MiB`, `1.5 GiB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    let of = |unit: u64| number as f64 / unit as f64;
    match number {
        0..1024 => format!("{number} B"),
        1024..1_048_576 => format!("{:.1} KiB", of(1 << 10)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", of(1 << 20)),
        _ => format!("{:.1} GiB", of(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_their_unit() {
        let said = [12, 2048, 3 << 20, 3 << 29].map(bytes);
        assert_eq!(said, ["12 B", "2.0 KiB", "3.0 MiB", "1.5 GiB"]);
    }

    #[test]
    fn spans_have_three_figures() {
        for (micros, want) in [
            (0, "0 µs"),
            (812, "812 µs"),
            (4_800, "4.80 ms"),
            (48_210, "48.2 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (1_200_000, "1.20 s"),
            (59_949_999, "59.9 s"),
            (59_999_999, "1 min 00 s"),
            (125_000_000, "2 min 05 s"),
            (11_520_000_000, "3 h 12 min"),
            (273_600_000_000, "3 d 04 h"),
        ] {
            assert_eq!(human(Duration::from_micros(micros)), want);
        }
        assert_eq!(compact(Duration::from_secs(125)), "2m05s");
        assert_eq!(compact(Duration::from_secs(11_520)), "3h12m");
        assert_eq!(compact(Duration::from_millis(1200)), "1.20s");
    }
}
