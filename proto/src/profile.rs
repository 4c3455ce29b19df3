//! How the runs of a task went: every phase of their receipts, as numbers that add up.
//!
//! They are for percentiles over an hour or a day, not for curves, so they are kept more coarsely than
//! counts: by ten minutes, and in histograms of half the resolution.

use std::time::Duration;

use crate::executor::Executor;
use crate::histogram::Histogram;
use crate::receipt::Receipt;

/// What is measured of each run, beside its run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// [`Receipt::enqueue`].
    Enqueue,
    /// [`Receipt::queue`].
    Queue,
    /// [`Receipt::fetch`].
    Fetch,
    /// [`Receipt::room`].
    Room,
    /// [`Receipt::claim`].
    Claim,
    /// [`Receipt::dispatch`].
    Dispatch,
    /// [`Receipt::encode`].
    Encode,
    /// From the attempt's end until its outcome was stored and its copy acknowledged. It is the time of
    /// its whole batch, with the wait for the batch before it, and stands in no receipt: a receipt is
    /// stored by what it would have to measure.
    Settle,
    /// All that Millhand itself took for the job: see [`Profile::overhead`].
    Moved,
    /// [`Receipt::cpu`].
    Cpu,
    /// [`Receipt::blocked`].
    Blocked,
    /// [`Receipt::start`].
    Start,
    /// [`Receipt::peak`], in bytes.
    Peak,
}

impl Measure {
    /// All that is measured.
    pub const ALL: [Self; 13] = [
        Self::Enqueue,
        Self::Queue,
        Self::Fetch,
        Self::Room,
        Self::Claim,
        Self::Dispatch,
        Self::Encode,
        Self::Settle,
        Self::Moved,
        Self::Cpu,
        Self::Blocked,
        Self::Start,
        Self::Peak,
    ];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Queue => "queue",
            Self::Fetch => "fetch",
            Self::Room => "room",
            Self::Claim => "claim",
            Self::Dispatch => "dispatch",
            Self::Encode => "encode",
            Self::Settle => "settle",
            Self::Moved => "moved",
            Self::Cpu => "cpu",
            Self::Blocked => "blocked",
            Self::Start => "start",
            Self::Peak => "peak",
        }
    }

    /// The letter of its buckets in a store; `w` and `r` are taken by waits and runs.
    const fn letter(self) -> char {
        match self {
            Self::Enqueue => 'e',
            Self::Queue => 'q',
            Self::Fetch => 'f',
            Self::Room => 'o',
            Self::Claim => 'c',
            Self::Dispatch => 'd',
            Self::Encode => 'n',
            Self::Settle => 't',
            Self::Moved => 'm',
            Self::Cpu => 'u',
            Self::Blocked => 'b',
            Self::Start => 's',
            Self::Peak => 'p',
        }
    }
}

/// The names of the sums in a store.
const SUMS: [&str; 3] = ["sum-run", "sum-moved", "sum-cpu"];

/// How the runs of a task went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    runs: [u64; Executor::ALL.len()],
    /// Microseconds that runs took, that moving took, and that runs were on a CPU.
    sums: [u64; SUMS.len()],
    measures: [Histogram; Measure::ALL.len()],
}

impl Profile {
    /// Minutes that are kept in one, so that a day of a task stays small.
    pub const MINUTES: u64 = 10;

    /// Counts one run.
    pub fn record(&mut self, executor: Executor, receipt: &Receipt, settle: Duration) {
        let settle = u64::try_from(settle.as_micros()).unwrap_or(u64::MAX);
        let moved = receipt.moved().saturating_add(settle);
        let Receipt {
            enqueue,
            queue,
            fetch,
            room,
            claim,
            dispatch,
            run,
            cpu,
            encode,
            blocked,
            start,
            peak,
        } = *receipt;
        self.runs[executor as usize] += 1;
        for (sum, n) in self.sums.iter_mut().zip([run, moved, cpu.unwrap_or(0)]) {
            *sum = sum.saturating_add(n);
        }
        let values = [
            Some(enqueue),
            Some(queue),
            Some(fetch),
            Some(room),
            Some(claim),
            Some(dispatch),
            Some(encode),
            Some(settle),
            Some(moved),
            cpu,
            blocked,
            start,
            peak,
        ];
        for (histogram, value) in self.measures.iter_mut().zip(values) {
            if let Some(value) = value {
                histogram.record_coarsely(value);
            }
        }
    }

    /// Runs on this executor.
    #[must_use]
    pub fn runs_on(&self, executor: Executor) -> u64 {
        self.runs[executor as usize]
    }

    /// Runs on any executor.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What was measured, as a histogram: of microseconds, but for [`Measure::Peak`], in one of bytes.
    #[must_use]
    pub fn measure(&self, what: Measure) -> &Histogram {
        &self.measures[what as usize]
    }

    /// The **overhead share**: of the time that jobs did not wait for capacity, the share that Millhand's
    /// own moving took.
    ///
    /// Moving is enqueue, fetch, claim, dispatch (with the start of a child that the job waited for),
    /// encode and settle; the rest is the run. Queue and room are **not** in it: a job waits there because
    /// slots are taken. Each phase is the time that one job spent in it, so the time of a batch counts for
    /// every job in it: the share says what a job's latency consists of, not how busy the worker was.
    /// `None` when nothing ran.
    #[must_use]
    pub fn overhead(&self) -> Option<f64> {
        let [run, moved, _] = self.sums;
        share(moved, run.saturating_add(moved)).filter(|_| self.runs() > 0)
    }

    /// The share of the run time that was spent on a CPU; `None` when it was not measured for (nearly) all.
    #[must_use]
    pub fn cpu_share(&self) -> Option<f64> {
        let [run, _, cpu] = self.sums;
        // A few ends have no CPU time: a child that crashed took it along.
        let known = self.measure(Measure::Cpu).count() as f64 >= 0.9 * self.runs() as f64;
        share(cpu, run)
            .filter(|_| known && self.runs() > 0)
            .map(|share| share.min(1.0))
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        let own = self.runs.iter_mut().chain(&mut self.sums);
        for (own, n) in own.zip(other.runs.iter().chain(&other.sums)) {
            *own = own.saturating_add(*n);
        }
        for (own, histogram) in self.measures.iter_mut().zip(&other.measures) {
            own.merge(histogram);
        }
    }

    /// Its parts by name: `async`, `sum-run`, `d17` for a bucket of dispatch.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let runs = Executor::ALL.into_iter().map(Executor::as_str).zip(self.runs);
        let sums = SUMS.into_iter().zip(self.sums);
        let named = runs.chain(sums).filter(|(_, n)| *n > 0);
        let named = named.map(|(name, n)| (name.to_owned(), n));
        let buckets = Measure::ALL
            .into_iter()
            .zip(&self.measures)
            .flat_map(|(what, histogram)| {
                let name = move |(bucket, n)| (format!("{}{bucket}", what.letter()), n);
                histogram.iter().map(name)
            });
        named.chain(buckets)
    }

    /// Where a named part is counted.
    pub(crate) fn part(name: &str) -> Option<Part> {
        if let Some(executor) = Executor::ALL.into_iter().find(|e| e.as_str() == name) {
            return Some(Part::Runs(executor));
        }
        if let Some(sum) = SUMS.iter().position(|sum| *sum == name) {
            return Some(Part::Sum(sum));
        }
        let (letter, bucket) = name.split_at_checked(1)?;
        let what = Measure::ALL
            .into_iter()
            .find(|what| letter.starts_with(what.letter()))?;
        Some(Part::Bucket(what, bucket.parse().ok()?))
    }

    /// Adds to a part.
    pub(crate) fn add_part(&mut self, part: Part, number: u64) {
        let place = match part {
            Part::Runs(executor) => &mut self.runs[executor as usize],
            Part::Sum(sum) => &mut self.sums[sum],
            Part::Bucket(what, bucket) => return self.measures[what as usize].add(bucket, number),
        };
        *place = place.saturating_add(number);
    }
}

/// A part of a profile in a store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Runs(Executor),
    Sum(usize),
    Bucket(Measure, u16),
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            enqueue: 10,
            queue: 1_000_000,
            fetch: 20,
            room: 500_000,
            claim: 30,
            dispatch: 25,
            run: 400,
            cpu: Some(300),
            encode: 5,
            blocked: None,
            start: Some(7),
            peak: Some(1 << 30),
        }
    }

    #[test]
    fn waiting_for_capacity_is_no_overhead_and_all_moving_is() {
        let mut profile = Profile::default();
        assert_eq!((profile.overhead(), profile.cpu_share()), (None, None));
        profile.record(Executor::Process, &receipt(), Duration::from_micros(10));
        // 10 + 20 + 30 + 25 + 5, and 10 of settling, beside 400 of running.
        assert_eq!(profile.overhead(), Some(0.2));
        assert_eq!(profile.cpu_share(), Some(0.75));
        assert_eq!(profile.runs_on(Executor::Process), 1);
        assert_eq!(profile.measure(Measure::Moved).count(), 1);
        assert_eq!(profile.measure(Measure::Blocked).count(), 0);
    }

    #[test]
    fn a_cpu_share_is_of_runs_that_were_measured() {
        let mut profile = Profile::default();
        profile.record(Executor::Async, &receipt(), Duration::ZERO);
        let unmeasured = Receipt { cpu: None, ..receipt() };
        profile.record(Executor::Async, &unmeasured, Duration::ZERO);
        assert_eq!(profile.cpu_share(), None);
        assert!(profile.overhead().is_some());
    }

    #[test]
    fn ten_busy_minutes_of_a_task_stay_small() {
        let mut profile = Profile::default();
        // Phases whose times spread over a factor of 30, as under load.
        for n in 0..10_000u64 {
            let at = |base: u64| base + base * (n * 7919 % 1000) * 30 / 1000;
            let receipt = Receipt {
                enqueue: at(300),
                queue: at(2_000),
                fetch: at(100),
                room: at(700),
                claim: at(500),
                dispatch: at(40),
                run: at(9_000),
                cpu: Some(at(8_000)),
                encode: at(3),
                blocked: Some(at(900)),
                start: None,
                peak: Some(at(1 << 24)),
            };
            profile.record(Executor::Thread, &receipt, Duration::from_micros(at(800)));
        }
        let parts = profile.parts().count();
        assert!((100..300).contains(&parts), "{parts} parts");
    }
}
