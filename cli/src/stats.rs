//! How tasks ran: as text, and as JSON.

mod json;
mod text;

use millhand_proto::{Count, Executor, Histogram, Measure, Numbers, Profile, Tally, TaskName};

pub(crate) use self::json::StatsList;
pub(crate) use self::text::{one, table};

const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// One task's numbers of some time, of all queues that were asked for.
#[derive(Debug)]
pub(crate) struct TaskStats {
    task: String,
    numbers: Numbers,
}

impl TaskStats {
    pub(crate) fn of(task: &TaskName, tallies: &[Tally]) -> Self {
        let mut numbers = Numbers::default();
        for tally in tallies {
            numbers.merge(&tally.numbers);
        }
        let task = task.to_string();
        Self { task, numbers }
    }

    fn overhead(&self) -> Option<f64> {
        self.numbers.profile().and_then(Profile::overhead)
    }

    /// Runs by executor, where there were any.
    fn executors(&self) -> impl Iterator<Item = (Executor, u64)> + '_ {
        let runs = |executor| self.numbers.profile().map_or(0, |p| p.runs_on(executor));
        let runs = Executor::ALL
            .into_iter()
            .map(move |executor| (executor, runs(executor)));
        runs.filter(|(_, n)| *n > 0)
    }

    /// The phases of a receipt, with its settling, in the order they happen.
    fn phases(&self) -> Vec<(&'static str, &Histogram)> {
        let Some(profile) = self.numbers.profile() else {
            return vec![("run", &self.numbers.run)];
        };
        let of = |what: Measure| (what.as_str(), profile.measure(what));
        vec![
            of(Measure::Enqueue),
            of(Measure::Queue),
            of(Measure::Fetch),
            of(Measure::Room),
            of(Measure::Claim),
            of(Measure::Dispatch),
            ("run", &self.numbers.run),
            of(Measure::Encode),
            of(Measure::Settle),
        ]
    }
}

/// A count as it is shown: a store counts crashed attempts among the failed too, here each is one of them.
fn shown(numbers: &Numbers, what: Count) -> u64 {
    let crashed = if what == Count::Failed {
        numbers.get(Count::Crashed)
    } else {
        0
    };
    numbers.get(what).saturating_sub(crashed)
}

/// Made-up numbers, for the tests of what is printed.
#[cfg(test)]
mod fixture {
    use std::time::Duration;

    use millhand_proto::Receipt;

    use super::*;

    pub(super) fn resize() -> TaskStats {
        let mut numbers = Numbers::default();
        for n in 0..200 {
            let receipt = Receipt {
                enqueue: 300 + n,
                queue: 40_000 + n * 2_000,
                fetch: 90,
                room: 150_000,
                claim: 800 + n * 5,
                dispatch: 60,
                run: 42_000 + n * 50,
                cpu: Some(41_000),
                encode: 12,
                start: (n == 0).then_some(4_000),
                peak: Some(80 << 20),
                ..Receipt::default()
            };
            numbers.record(Executor::Process, &receipt, Duration::from_micros(900));
            numbers.count(Count::Succeeded);
        }
        // A crash is counted twice.
        for what in [
            Count::Failed,
            Count::Failed,
            Count::Failed,
            Count::Crashed,
            Count::Retried,
        ] {
            numbers.count(what);
        }
        TaskStats {
            task: "resize".into(),
            numbers,
        }
    }

    /// It was only met: it expired before it ran.
    pub(super) fn late() -> TaskStats {
        let mut numbers = Numbers::default();
        numbers.count(Count::Expired);
        TaskStats {
            task: "late".into(),
            numbers,
        }
    }
}
