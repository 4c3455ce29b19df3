//! Where a value lies, and round values to mark.

use std::time::Duration;

use millhand_proto::words::compact;

use super::HEIGHT;

/// Where a duration lies: from 0, or by its logarithm where the values are far apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear { top: f64 },
    Log { low: i32, high: i32 },
}

impl Scale {
    pub(super) fn new(least: f64, most: f64) -> Self {
        if most / least <= 50.0 {
            return Self::Linear { top: round_up(most) };
        }
        // Powers of ten between a nanosecond and a thousand years.
        let power = |value: f64| (-9..12).find(|power| 10f64.powi(*power) >= value).unwrap_or(12);
        Self::Log {
            low: power(least * 1.000_001) - 1,
            high: power(most),
        }
    }

    pub(super) fn y(self, value: f64) -> f64 {
        match self {
            Self::Linear { top } => HEIGHT * (1.0 - value / top),
            Self::Log { low, high } => {
                let part = (value.log10() - f64::from(low)) / f64::from(high - low);
                HEIGHT * (1.0 - part.clamp(0.0, 1.0))
            }
        }
    }

    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { top } => vec![0.0, top / 2.0, top],
            Self::Log { low, high } => {
                let step = if high - low > 4 { 2 } else { 1 };
                (low..=high).step_by(step).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

/// The next of 1, 2, 4, 6, 8 or 10 times a power of ten: its half is round too.
pub(super) fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value * 0.999_999)
        .unwrap_or(power * 10.0)
}

/// A round duration as short as it can be: `5 ms`, not `5.00 ms`.
pub(super) fn mark(secs: f64) -> String {
    let text = compact(Duration::from_secs_f64(secs));
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    match unit {
        "µs" | "ms" | "s" => format!("{number} {unit}"),
        _ => text,
    }
}

/// A value of an axis, which is far from any bound.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_all_values_and_ticks_are_round() {
        for (least, most) in [(0.001, 0.002), (0.3, 14.9), (0.001, 60.0), (1e-6, 86_400.0), (1.0, 1.0)] {
            let scale = Scale::new(least, most);
            for value in [least, most] {
                assert!((-0.01..=HEIGHT).contains(&scale.y(value)), "{scale:?} {value}");
            }
            assert!((3..=6).contains(&scale.ticks().len()), "{scale:?}");
        }
        let tops: Vec<f64> = [0.0, 1.0, 3.0, 5.0, 9.0, 11.0, 99.0].map(round_up).into();
        assert_eq!(tops, [1.0, 1.0, 4.0, 6.0, 10.0, 20.0, 100.0]);
        assert_eq!(
            [0.005, 0.000_1, 2.0, 20.0, 120.0].map(mark),
            ["5 ms", "100 µs", "2 s", "20 s", "2m00s"]
        );
    }
}
