//! What happened in one minute to the jobs of one queue and task, as numbers that add up.

use crate::histogram::Histogram;
use crate::name::{QueueName, TaskName};
use crate::time::Timestamp;

/// What is counted. Attempts fail, jobs end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Jobs that succeeded.
    Succeeded,
    /// Jobs that died.
    Dead,
    /// Jobs that were cancelled as a worker met or ran them.
    Cancelled,
    /// Jobs that were too late to start.
    Expired,
    /// Attempts that failed and that another follows.
    Retried,
    /// Attempts that asked for a later run.
    Snoozed,
    /// Attempts that failed, timed out or crashed.
    Failed,
    /// Attempts whose process crashed; among the failed.
    Crashed,
}

impl Count {
    /// All that is counted.
    pub const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
        Self::Retried,
        Self::Snoozed,
        Self::Failed,
        Self::Crashed,
    ];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Retried => "retried",
            Self::Snoozed => "snoozed",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
        }
    }
}

/// Numbers that add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    counts: [u64; Count::ALL.len()],
    /// How long jobs waited, from due and in the queue until they had a slot.
    pub wait: Histogram,
    /// How long attempts ran.
    pub run: Histogram,
}

/// The numbers of one minute, queue and task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The minute, since the epoch.
    pub minute: u64,
    /// The queue.
    pub queue: QueueName,
    /// The task.
    pub task: TaskName,
    /// Its numbers.
    pub numbers: Numbers,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new(minute: u64, queue: QueueName, task: TaskName) -> Self {
        Self {
            minute,
            queue,
            task,
            numbers: Numbers::default(),
        }
    }

    /// The minute in which a time lies.
    #[must_use]
    pub fn minute_of(time: Timestamp) -> u64 {
        u64::try_from(time.as_secs() / 60).unwrap_or(0)
    }
}

impl Numbers {
    /// One more.
    pub fn count(&mut self, what: Count) {
        self.add(what, 1);
    }

    /// How many.
    #[must_use]
    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize]
    }

    /// Jobs that ended, however they did.
    #[must_use]
    pub fn ended(&self) -> u64 {
        [Count::Succeeded, Count::Dead, Count::Cancelled, Count::Expired]
            .iter()
            .fold(0, |sum, what| sum.saturating_add(self.get(*what)))
    }

    fn add(&mut self, what: Count, number: u64) {
        let count = &mut self.counts[what as usize];
        *count = count.saturating_add(number);
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: &Self) {
        for what in Count::ALL {
            self.add(what, other.get(what));
        }
        self.wait.merge(&other.wait);
        self.run.merge(&other.run);
    }

    /// Its parts by name: `succeeded`, …, `w17` for a bucket of waiting, `r203` for one of running.
    /// A store keeps these, so that many workers add to one minute without reading it first.
    pub fn parts(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let counts = Count::ALL
            .into_iter()
            .map(|what| (what.as_str().to_owned(), self.get(what)));
        let waits = self.wait.iter().map(|(bucket, n)| (format!("w{bucket}"), n));
        let runs = self.run.iter().map(|(bucket, n)| (format!("r{bucket}"), n));
        counts.filter(|(_, n)| *n > 0).chain(waits).chain(runs)
    }

    /// Adds to the part of this name; a name that is not known, of a later build, is passed over.
    pub fn add_part(&mut self, name: &str, number: u64) {
        if let Some(what) = Count::ALL.into_iter().find(|what| what.as_str() == name) {
            return self.add(what, number);
        }
        let split = name.split_at_checked(1);
        match split.and_then(|(letter, bucket)| Some((letter, bucket.parse().ok()?))) {
            Some(("w", bucket)) => self.wait.add(bucket, number),
            Some(("r", bucket)) => self.run.add(bucket, number),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn numbers() -> Numbers {
        let mut numbers = Numbers::default();
        for what in [Count::Succeeded, Count::Succeeded, Count::Failed, Count::Retried] {
            numbers.count(what);
        }
        numbers.wait.record(Duration::from_millis(3));
        numbers.run.record(Duration::from_secs(2));
        numbers
    }

    #[test]
    fn its_parts_make_it_again_and_add_up() {
        let once = numbers();
        let mut again = Numbers::default();
        for (name, number) in once.parts() {
            again.add_part(&name, number);
        }
        assert_eq!(again, once);
        again.merge(&once);
        assert_eq!(
            (again.get(Count::Succeeded), again.ended(), again.run.count()),
            (4, 4, 2)
        );
    }

    #[test]
    fn parts_of_a_later_build_are_passed_over() {
        let mut again = numbers();
        for name in ["", "x", "w", "w-1", "r99999999", "é1", "paused"] {
            again.add_part(name, 1);
        }
        assert_eq!(again, numbers());
    }

    #[test]
    fn a_minute_begins_with_its_first_second() {
        let minute = |secs: i64| Tally::minute_of(Timestamp::from_micros(secs * 1_000_000));
        assert_eq!([minute(-1), minute(59), minute(60), minute(119)], [0, 0, 1, 1]);
    }
}
