//! The numbers of the last day, as finely as pages show them: by the minute for the last hour, by
//! five minutes for six hours, by fifteen before that. So a day of a fleet stays small.

use std::collections::BTreeMap;
use std::ops;
use std::sync::Arc;

use millhand_proto::{Numbers, QueueName, Tally, TaskName};
use tokio::time::Instant;

use crate::range::Range;

/// Minutes that are read at once, from a round one on. No slice lies in two blocks.
pub(crate) const BLOCK: u64 = Range::Day.step();
/// Minutes, besides this one, that workers still add to: each look reads them again.
const OPEN: u64 = 3;

/// What is known of the last day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Day {
    /// The minute of the last look. What came before it by more than `OPEN` is read in blocks.
    now: u64,
    /// The numbers of a minute or several, under the first of them.
    slices: BTreeMap<u64, Arc<[Tally]>>,
    /// Blocks that are known up to now, with when they were read.
    known: BTreeMap<u64, Instant>,
}

impl Day {
    /// The minutes that a look reads: those that are open, and those since the last look.
    pub(crate) fn open(&self, now: u64) -> ops::Range<u64> {
        let since = self.now.min(now).saturating_sub(OPEN);
        let from = if now - since <= BLOCK {
            since
        } else {
            now.saturating_sub(OPEN)
        };
        from..now + 1
    }

    /// Takes in what a look read of minutes that were [`open`](Self::open).
    pub(crate) fn look(&mut self, minutes: ops::Range<u64>, tallies: Vec<Tally>) {
        let (seen, now) = (self.now.saturating_sub(OPEN), minutes.end - 1);
        if minutes.start > seen {
            // Nobody looked for long: what came after the last look is not known.
            self.known.retain(|start, _| start + BLOCK <= seen);
        }
        let newest = now / BLOCK * BLOCK;
        if minutes.start <= newest {
            self.known.entry(newest).or_insert_with(Instant::now);
        }
        self.now = now;
        self.put(minutes, tallies);
        self.tidy();
    }

    /// Takes in what was read of a block.
    pub(crate) fn fill(&mut self, block: u64, tallies: Vec<Tally>) {
        // A look that came meanwhile knows the open minutes better.
        let closed = block..(block + BLOCK).min(self.now.saturating_sub(OPEN));
        let tallies = tallies.into_iter().filter(|tally| closed.contains(&tally.minute));
        self.put(closed.clone(), tallies.collect());
        self.known.insert(block, Instant::now());
    }

    /// The newest block that is not known.
    pub(crate) fn unknown(&self) -> Option<u64> {
        self.blocks().rev().find(|block| !self.known.contains_key(block))
    }

    /// The block that was read longest ago, but not within `time`.
    pub(crate) fn oldest(&self, time: std::time::Duration) -> Option<u64> {
        let (block, _) = self.known.iter().min_by_key(|(_, read)| **read)?;
        Some(*block).filter(|block| self.known[block].elapsed() >= time)
    }

    /// How much is known, in percent; `None` when all is.
    pub(crate) fn percent(&self) -> Option<usize> {
        let (mut all, mut known) = (0, 0);
        for block in self.blocks() {
            all += 1;
            known += usize::from(self.known.contains_key(&block));
        }
        (known < all).then(|| known * 100 / all)
    }

    /// The numbers of some minutes: of buckets of a range, or of the last hour.
    pub(crate) fn tallies(&self, minutes: ops::Range<u64>) -> impl Iterator<Item = &Tally> {
        self.slices.range(minutes).flat_map(|(_, tallies)| tallies.iter())
    }

    /// The blocks of the day.
    fn blocks(&self) -> impl DoubleEndedIterator<Item = u64> {
        let first = Range::Day.first(self.now) / BLOCK;
        (first..=self.now / BLOCK).map(|block| block * BLOCK)
    }

    fn put(&mut self, minutes: ops::Range<u64>, tallies: Vec<Tally>) {
        self.slices.retain(|start, _| !minutes.contains(start));
        let step = self.step(minutes.start / BLOCK * BLOCK);
        self.slices.extend(fold(tallies, step));
    }

    /// Minutes of a slice of this block: the finest that a range needs which reaches back to it.
    fn step(&self, block: u64) -> u64 {
        let reaches = |range: &Range| range.first(self.now) < block + BLOCK;
        Range::ALL.into_iter().find(reaches).unwrap_or(Range::Day).step()
    }

    /// Forgets what is too old, and folds what no page shows so finely any more.
    fn tidy(&mut self) {
        let first = Range::Day.first(self.now);
        self.slices.retain(|start, _| *start >= first);
        self.known.retain(|start, _| *start >= first);
        for block in (first..=self.now).step_by(usize::try_from(BLOCK).unwrap_or(1)) {
            let (step, slices) = (self.step(block), self.slices.range(block..block + BLOCK));
            if slices.clone().count() as u64 > BLOCK / step {
                let tallies: Vec<Tally> = slices.flat_map(|(_, tallies)| tallies.to_vec()).collect();
                self.put(block..block + BLOCK, tallies);
            }
        }
    }
}

/// The sums of so many minutes each.
fn fold(tallies: Vec<Tally>, step: u64) -> impl Iterator<Item = (u64, Arc<[Tally]>)> {
    let mut slices: BTreeMap<u64, BTreeMap<(QueueName, TaskName), Numbers>> = BTreeMap::new();
    for Tally {
        minute,
        queue,
        task,
        mut numbers,
    } in tallies
    {
        // No page shows it, and a day of a fleet is held.
        numbers.take_profile();
        let slice = slices.entry(minute / step * step).or_default();
        slice.entry((queue, task)).or_default().merge(&numbers);
    }
    slices.into_iter().map(|(minute, slice)| {
        let tally = |((queue, task), numbers)| Tally {
            minute,
            queue,
            task,
            numbers,
        };
        (minute, slice.into_iter().map(tally).collect())
    })
}

#[cfg(test)]
impl Day {
    /// A day of which all is known.
    pub(crate) fn of(now: u64, tallies: Vec<Tally>) -> Self {
        let mut day = Self::default();
        day.look(now..now + 1, Vec::new());
        for tally in tallies {
            day.put(tally.minute..tally.minute + 1, vec![tally]);
        }
        day.known = day.blocks().map(|block| (block, Instant::now())).collect();
        day
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millhand_proto::Count;

    use super::*;

    /// In the middle of a block.
    const NOW: u64 = 32_130_007;

    fn tally(minute: u64) -> Tally {
        let mut tally = Tally::new(minute, QueueName::default(), TaskName::new("t").unwrap());
        tally.numbers.count(Count::Succeeded);
        tally
    }

    fn all(minutes: ops::Range<u64>) -> Vec<Tally> {
        minutes.map(tally).collect()
    }

    fn look(day: &mut Day, now: u64) -> ops::Range<u64> {
        let open = day.open(now);
        day.look(open.clone(), all(open.clone()));
        open
    }

    fn fill(day: &mut Day) -> Vec<u64> {
        let mut read = Vec::new();
        while let Some(block) = day.unknown() {
            day.fill(block, all(block..block + BLOCK));
            read.push(block);
        }
        read
    }

    fn sum(day: &Day, minutes: ops::Range<u64>) -> u64 {
        day.tallies(minutes).map(|tally| tally.numbers.ended()).sum()
    }

    #[test]
    fn a_day_is_read_newest_first_and_looks_go_on_from_there() {
        let mut day = Day::default();
        assert_eq!(look(&mut day, NOW), NOW - OPEN..NOW + 1);
        assert_eq!(day.percent(), Some(0));
        let newest = NOW / BLOCK * BLOCK;
        let blocks: Vec<u64> = (0..96).map(|back| newest - back * BLOCK).collect();
        assert_eq!(fill(&mut day), blocks);
        assert_eq!(day.percent(), None);
        // Each minute of two hours is looked at, and each is there once; no block is read again.
        for now in NOW + 1..NOW + 120 {
            look(&mut day, now);
            assert_eq!(day.unknown(), None);
        }
        for range in Range::ALL {
            let now = millhand_proto::Timestamp::from_micros(i64::try_from((NOW + 119) * 60_000_000).unwrap());
            for bucket in range.buckets(now) {
                let there = bucket.end.min(NOW + 120) - bucket.start;
                assert_eq!(sum(&day, bucket.clone()), there, "{range:?} {bucket:?}");
            }
        }
    }

    #[test]
    fn older_numbers_are_folded_and_the_oldest_forgotten() {
        let mut day = Day::default();
        look(&mut day, NOW);
        fill(&mut day);
        for now in NOW..NOW + 2 * 1440 {
            look(&mut day, now);
            // 75 minutes and a block at the most, then 5 hours by 5, then 18 by 15.
            let slices = day.slices.len();
            assert!(slices <= 90 + 63 + 75, "{slices} slices");
            assert_eq!(day.known.len(), 96);
        }
    }

    #[test]
    fn what_nobody_looked_at_is_read_by_and_by() {
        let mut day = Day::default();
        look(&mut day, NOW);
        fill(&mut day);
        // Soon enough, a look reads what it missed itself.
        assert_eq!(look(&mut day, NOW + 10), NOW - OPEN..NOW + 11);
        assert_eq!(day.unknown(), None);
        let later = NOW + 65;
        assert_eq!(look(&mut day, later), later - OPEN..later + 1);
        let (from, to) = ((NOW + 10 - OPEN) / BLOCK * BLOCK, later / BLOCK * BLOCK);
        let read = fill(&mut day);
        assert_eq!((read.first(), read.last()), (Some(&to), Some(&from)));
        assert_eq!(sum(&day, from..later + 1), later + 1 - from);
    }

    #[test]
    fn a_block_that_is_read_again_is_not_counted_twice() {
        let mut day = Day::default();
        look(&mut day, NOW);
        fill(&mut day);
        let first = Range::Day.first(NOW);
        let once = sum(&day, 0..NOW + 1);
        assert_eq!(once, NOW + 1 - first);
        for _ in 0..3 {
            let oldest = day.oldest(Duration::ZERO).unwrap();
            day.fill(oldest, all(oldest..oldest + BLOCK));
        }
        assert_eq!(sum(&day, 0..NOW + 1), once);
        assert_eq!(day.oldest(Duration::from_secs(3600)), None);
    }
}
