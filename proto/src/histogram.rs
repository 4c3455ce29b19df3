//! Durations, counted by size: small, mergeable, and good enough for percentiles.
//!
//! The buckets are log-linear: eight between any two powers of two, so that a quantile is at most
//! 6.25 % away from the true one, and what a day of jobs took fits in a few hundred numbers.

use std::time::Duration;

/// Buckets between two powers of two, as a power of two.
const FINE: u32 = 3;
/// Longer durations (about 25 days) count as this long, in powers of two of a microsecond.
const LONGEST: u32 = 41;

/// How many durations were how long, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Bucket and count, by bucket; none is empty.
    buckets: Vec<(u16, u64)>,
}

impl Histogram {
    /// Buckets that there are: every index is below.
    pub const BUCKETS: u16 = bucket_of((1 << LONGEST) - 1) + 1;

    /// Counts one duration.
    pub fn record(&mut self, span: Duration) {
        self.add(bucket_of(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)), 1);
    }

    /// Counts one value, of microseconds or another unit, in every other bucket only: for what is kept in
    /// great number. A quantile is then at most 16 % away from the true one.
    pub fn record_coarsely(&mut self, value: u64) {
        let bucket = bucket_of(value);
        // The first eight are exact and stay so.
        self.add(if bucket < 1 << FINE { bucket } else { bucket & !1 }, 1);
    }

    /// Adds to one bucket; an index that no bucket has counts as the last.
    pub fn add(&mut self, bucket: u16, count: u64) {
        if count == 0 {
            return;
        }
        let bucket = bucket.min(Self::BUCKETS - 1);
        match self.buckets.binary_search_by_key(&bucket, |(at, _)| *at) {
            Ok(place) => self.buckets[place].1 = self.buckets[place].1.saturating_add(count),
            Err(place) => self.buckets.insert(place, (bucket, count)),
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        // Both are in order: one pass finds the places, and a day of a fleet is merged for each look at it.
        let mut at = 0;
        for (bucket, count) in other.iter() {
            at += self.buckets[at..].iter().take_while(|(own, _)| *own < bucket).count();
            match self.buckets.get_mut(at) {
                Some((own, n)) if *own == bucket => *n = n.saturating_add(count),
                _ => self.buckets.insert(at, (bucket, count)),
            }
        }
    }

    /// The buckets that hold something, with their counts, the shortest first.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.buckets.iter().copied()
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The duration that the share `q` (0 to 1) of all does not exceed; `None` when there are none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        // The rank is counted, not computed: a share of a `u64` would have to be cast.
        let mut seen = 0u64;
        let reached = |seen: u64| seen as f64 >= q.clamp(0.0, 1.0) * count as f64;
        let mut last = None;
        for (bucket, n) in self.iter() {
            seen = seen.saturating_add(n);
            last = Some(middle(bucket));
            if reached(seen) {
                break;
            }
        }
        last
    }
}

/// Where a duration of so many microseconds is counted.
const fn bucket_of(micros: u64) -> u16 {
    let micros = if micros >= 1 << LONGEST {
        (1 << LONGEST) - 1
    } else {
        micros
    };
    if micros < 1 << FINE {
        return small(micros);
    }
    // Eight buckets for each power of two above the first eight, which are exact.
    let power = micros.ilog2() - FINE;
    small(((power as u64) << FINE) + (micros >> power))
}

/// Bucket numbers end far below 2^16.
#[allow(clippy::cast_possible_truncation)]
const fn small(bucket: u64) -> u16 {
    bucket as u16
}

/// The middle of a bucket.
fn middle(bucket: u16) -> Duration {
    let bucket = u64::from(bucket);
    if bucket < 2 << FINE {
        return Duration::from_micros(bucket);
    }
    let power = (bucket >> FINE) - 1;
    let low = (bucket - (power << FINE)) << power;
    Duration::from_micros(low + (1 << power) / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for n in micros {
            histogram.record(Duration::from_micros(*n));
        }
        histogram
    }

    /// Whether `found` is as near to `true_one` as is promised.
    fn near(found: Duration, true_one: u64) -> bool {
        let found = found.as_micros() as f64;
        (found - true_one as f64).abs() <= true_one as f64 * 0.0625
    }

    #[test]
    fn buckets_follow_each_other_without_gaps_and_small_ones_are_exact() {
        let mut last = 0;
        for power in 0..LONGEST {
            for step in 0..64u64 {
                let micros = (1u64 << power) + ((step << power) >> 6);
                let bucket = bucket_of(micros);
                assert!(
                    bucket == last || bucket == last + 1,
                    "{micros} µs: {bucket} after {last}"
                );
                assert!(near(middle(bucket), micros), "{micros} µs: {:?}", middle(bucket));
                last = bucket;
            }
        }
        assert_eq!(last + 1, Histogram::BUCKETS);
        for micros in 0..16 {
            assert_eq!(middle(bucket_of(micros)), Duration::from_micros(micros));
        }
        assert_eq!(bucket_of(u64::MAX), Histogram::BUCKETS - 1);
    }

    #[test]
    fn coarse_values_are_near_and_small_ones_exact() {
        let mut buckets = std::collections::BTreeSet::new();
        for value in (0..2_000u64).chain((0..2_000).map(|n| 1_000_000 + n * 977)) {
            let mut histogram = Histogram::default();
            histogram.record_coarsely(value);
            let found = histogram.quantile(0.5).unwrap().as_micros() as f64;
            let off = (found - value as f64).abs();
            assert!(
                off <= value as f64 * 0.16 && (value >= 8 || off == 0.0),
                "{value}: {found}"
            );
            buckets.extend(histogram.iter().map(|(bucket, _)| bucket));
        }
        let fine: std::collections::BTreeSet<u16> = (8..2_000).map(bucket_of).collect();
        assert_eq!(
            buckets.iter().filter(|b| (8..=bucket_of(1_999)).contains(*b)).count(),
            fine.len() / 2
        );
    }

    #[test]
    fn nothing_has_no_quantile_and_one_has_only_itself() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        for q in [-1.0, 0.0, 0.5, 1.0, 2.0] {
            assert_eq!(of(&[12]).quantile(q), Some(Duration::from_micros(12)));
        }
        let mut full = of(&[5]);
        full.add(5, u64::MAX);
        full.add(u16::MAX, 1);
        assert_eq!(full.count(), u64::MAX);
        assert!(full.quantile(0.99).is_some());
    }

    proptest! {
        #[test]
        fn a_quantile_is_near_the_true_one(mut micros in prop::collection::vec(0u64..1 << 40, 1..200), q in 0.0f64..=1.0) {
            let histogram = of(&micros);
            micros.sort_unstable();
            let rank = (q * micros.len() as f64).ceil().max(1.0);
            let true_one = micros.iter().zip(1u32..).find(|(_, n)| f64::from(*n) >= rank).map(|(m, _)| *m);
            prop_assert!(near(histogram.quantile(q).unwrap(), true_one.unwrap()));
        }

        #[test]
        fn merged_is_as_if_one_had_counted_all(a in prop::collection::vec(0u64..1 << 45, 0..50), b in prop::collection::vec(0u64..1 << 45, 0..50)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(&merged, &of(&[a, b].concat()));
            let mut again = Histogram::default();
            for (bucket, count) in merged.iter() {
                again.add(bucket, count);
            }
            prop_assert_eq!(again, merged);
        }
    }
}
