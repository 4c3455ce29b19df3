//! How far back a page looks.

use std::time::Duration;

use millhand_proto::{Tally, Timestamp};

use crate::chart::Axis;

/// A range of time, and the length of its buckets: charts have at most 96 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Range {
    Quarter,
    #[default]
    Hour,
    Six,
    Day,
}

impl Range {
    pub(crate) const ALL: [Self; 4] = [Self::Quarter, Self::Hour, Self::Six, Self::Day];

    /// As it stands in a query.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Quarter => "15m",
            Self::Hour => "1h",
            Self::Six => "6h",
            Self::Day => "24h",
        }
    }

    /// As people say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Quarter => "15 min",
            Self::Hour => "1 h",
            Self::Six => "6 h",
            Self::Day => "24 h",
        }
    }

    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|range| range.word() == word)
    }

    /// Minutes in all, and minutes of a bucket.
    const fn minutes(self) -> (u64, u64) {
        match self {
            Self::Quarter => (15, 1),
            Self::Hour => (60, 1),
            Self::Six => (360, 5),
            Self::Day => (1440, 15),
        }
    }

    /// Minutes of a bucket.
    pub(crate) const fn step(self) -> u64 {
        self.minutes().1
    }

    /// Its first minute, when `now` is this minute.
    pub(crate) const fn first(self, now: u64) -> u64 {
        let (all, step) = self.minutes();
        (now / step * step + step).saturating_sub(all)
    }

    /// The minutes of its buckets, each starting at a round one; the last holds `now`.
    pub(crate) fn buckets(self, now: Timestamp) -> Vec<std::ops::Range<u64>> {
        let (all, step) = self.minutes();
        let first = self.first(Tally::minute_of(now));
        (0..all / step)
            .map(|bucket| first + bucket * step)
            .map(|start| start..start + step)
            .collect()
    }

    pub(crate) fn axis(self, now: Timestamp) -> Axis {
        let start = |minute: u64| Timestamp::from_micros(i64::try_from(minute * 60_000_000).unwrap_or(0));
        Axis {
            starts: self
                .buckets(now)
                .into_iter()
                .map(|bucket| start(bucket.start))
                .collect(),
            step: Duration::from_secs(self.minutes().1 * 60),
        }
    }

    /// From the start of the oldest bucket until `now`.
    pub(crate) fn span(self, now: Timestamp) -> Duration {
        self.axis(now)
            .starts
            .first()
            .map_or(Duration::ZERO, |start| now.since(*start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_the_last_holds_now() {
        let now = Timestamp::from_micros(1_927_857_906_789_012);
        for range in Range::ALL {
            let buckets = range.buckets(now);
            assert!(buckets.windows(2).all(|two| two[0].end == two[1].start));
            assert!(buckets.last().unwrap().contains(&Tally::minute_of(now)));
            assert_eq!(Range::of(range.word()), Some(range));
            assert!(range.span(now) <= Duration::from_secs(range.minutes().0 * 60));
        }
        assert_eq!(Range::of("2h"), None);
    }
}
