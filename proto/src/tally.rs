//! What happened in one minute to the jobs of one queue and task, as numbers that add up.

use std::time::Duration;

use crate::executor::Executor;
use crate::histogram::Histogram;
use crate::name::{QueueName, TaskName};
use crate::profile::Profile;
use crate::receipt::Receipt;
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
    /// Most minutes have none: see [`Tally::split`].
    profile: Option<Box<Profile>>,
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

    /// Takes the profile out, as numbers of the minute in which its [`Profile::MINUTES`] begin.
    pub fn split(&mut self) -> Option<Self> {
        let profile = self.numbers.take_profile()?;
        let minute = self.minute / Profile::MINUTES * Profile::MINUTES;
        let mut split = Self::new(minute, self.queue.clone(), self.task.clone());
        split.numbers.profile = Some(profile);
        Some(split)
    }
}

impl Numbers {
    /// One more.
    pub fn count(&mut self, what: Count) {
        self.add(what, 1);
    }

    /// One more run, by its receipt; `settle` is how long it took to store and acknowledge its outcome.
    pub fn record(&mut self, executor: Executor, receipt: &Receipt, settle: Duration) {
        self.wait.record(Duration::from_micros(receipt.waited()));
        self.run.record(Duration::from_micros(receipt.run));
        self.profile.get_or_insert_default().record(executor, receipt, settle);
    }

    /// How the runs went, phase by phase.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_deref()
    }

    /// The profile, which is taken out.
    pub fn take_profile(&mut self) -> Option<Box<Profile>> {
        self.profile.take()
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
        if let Some(profile) = &other.profile {
            self.profile.get_or_insert_default().merge(profile);
        }
    }

    /// Its parts by name: `succeeded`, …, `w17` for a bucket of waiting, `r203` for one of running, and
    /// those of the profile.
    /// A store keeps these, so that many workers add to one minute without reading it first.
    pub fn parts(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let counts = Count::ALL
            .into_iter()
            .map(|what| (what.as_str().to_owned(), self.get(what)));
        let waits = self.wait.iter().map(|(bucket, n)| (format!("w{bucket}"), n));
        let runs = self.run.iter().map(|(bucket, n)| (format!("r{bucket}"), n));
        let profile = self.profile.iter().flat_map(|profile| profile.parts());
        counts.filter(|(_, n)| *n > 0).chain(waits).chain(runs).chain(profile)
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
            _ => {
                if let Some(part) = Profile::part(name) {
                    self.profile.get_or_insert_default().add_part(part, number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// Numbers with every measure in them, each of another size.
    fn profiled() -> Numbers {
        let mut numbers = numbers();
        let receipt = Receipt {
            enqueue: 1_100,
            queue: 2_300,
            fetch: 4_700,
            room: 9_900,
            claim: 21_000,
            dispatch: 45_000,
            run: 95_000,
            cpu: Some(90_000),
            encode: 190_000,
            blocked: Some(390_000),
            start: Some(800_000),
            peak: Some(1 << 31),
        };
        numbers.record(Executor::Process, &receipt, Duration::from_secs(3));
        numbers.record(Executor::Async, &Receipt::default(), Duration::ZERO);
        numbers
    }

    #[test]
    fn its_parts_make_it_again_and_add_up() {
        for once in [numbers(), profiled()] {
            let mut again = Numbers::default();
            for (name, number) in once.parts() {
                again.add_part(&name, number);
            }
            assert_eq!(again, once);
            again.merge(&once);
            assert_eq!(
                (again.get(Count::Succeeded), again.ended(), again.run.count()),
                (4, 4, 2 * once.run.count())
            );
            let runs = |numbers: &Numbers| numbers.profile().map_or(0, Profile::runs);
            assert_eq!(runs(&again), 2 * runs(&once));
        }
    }

    #[test]
    fn names_of_parts_are_as_every_build_has_written_them() {
        let names: Vec<String> = profiled().parts().map(|(name, n)| format!("{name}={n}")).collect();
        assert_eq!(
            names.join(" "),
            "succeeded=2 retried=1 failed=1 w0=1 w75=1 w96=1 r0=1 r115=1 r151=1 async=1 process=1 sum-run=95000 \
             sum-moved=3261800 sum-cpu=90000 e0=1 e64=1 q0=1 q72=1 f0=1 f80=1 o0=1 o88=1 c0=1 c98=1 d0=1 d106=1 n0=1 \
             n122=1 t0=1 t154=1 m0=1 m156=1 u114=1 b130=1 s140=1 p232=1"
        );
    }

    #[test]
    fn a_profile_is_split_off_to_the_start_of_its_ten_minutes() {
        let (queue, task) = (QueueName::default(), TaskName::new("t").unwrap());
        let mut tally = Tally::new(1_239, queue.clone(), task.clone());
        tally.numbers = profiled();
        let mut whole = tally.numbers.clone();
        let split = tally.split().unwrap();
        assert_eq!((split.minute, &split.queue, &split.task), (1_230, &queue, &task));
        assert_eq!(tally.split(), None);
        let mut both = tally.numbers.clone();
        both.merge(&split.numbers);
        assert_eq!(both, whole);
        whole.take_profile();
        assert_eq!(tally.numbers, whole);
    }

    #[test]
    fn parts_of_a_later_build_are_passed_over() {
        let mut again = numbers();
        for name in [
            "",
            "x",
            "w",
            "w-1",
            "r99999999",
            "d-1",
            "zz",
            "é1",
            "sum-idle",
            "paused",
        ] {
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
