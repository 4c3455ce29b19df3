//! The adviser: from how a task ran to where it should run.
//!
//! It knows only what was measured, so it says what a look at the figures would say, with the figures.
//! Its rules, in order:
//!
//! 1. fewer than [`Figures::ENOUGH`] runs: no advice;
//! 2. crashes, or much memory, in a process: stay there, nothing else takes them;
//! 3. a task that waits belongs on `async`, unless it would hold the loop for too long at a time;
//! 4. a task that computes belongs on `thread` or, when it is long, on `process`, unless it is so brief
//!    that the way there costs more than it spares the loop;
//! 5. a brief task that stays where it is and runs shorter than it is moved should be packed.

mod rules;

use self::rules::Measured;
use crate::executor::Executor;
use crate::profile::Profile;
use crate::tally::{Count, Numbers, Tally};
use crate::words::plural;

/// How a task ran on its executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Where it runs: the executor of the newest runs.
    pub executor: Executor,
    /// The numbers of the time in which it ran there and nowhere else.
    pub numbers: Numbers,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be said yet.
    NotEnough,
    /// Leave it as it is.
    Keep,
    /// Run it on this executor.
    RunOn(Executor),
    /// Put at least so many jobs into one parcel.
    Pack(u32),
}

impl Verdict {
    /// Whether something should change.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(self, Self::RunOn(_) | Self::Pack(_))
    }
}

/// What to do, why, and what it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What to do.
    pub verdict: Verdict,
    /// The measured reason, as the end of a sentence about the task: `is 97 % CPU`.
    pub reason: String,
    /// What is to be expected of a change.
    pub gain: Option<String>,
}

impl Figures {
    /// Runs below which nothing is said.
    pub const ENOUGH: u64 = 50;

    /// The figures of one task, from the tallies of any queues and times; `None` when it did not run.
    pub fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Option<Self> {
        let mut spans: std::collections::BTreeMap<u64, Numbers> = std::collections::BTreeMap::new();
        for tally in tallies {
            let span = spans.entry(tally.minute / Profile::MINUTES).or_default();
            span.merge(&tally.numbers);
        }
        let here = |numbers: &Numbers, executor| numbers.profile().map_or(0, |p| p.runs_on(executor));
        let most = |numbers: &Numbers| Executor::ALL.into_iter().max_by_key(|e| here(numbers, *e));
        let executor = spans.values().rev().find(|n| n.profile().is_some()).and_then(most)?;
        let mut numbers = Numbers::default();
        for span in spans.values() {
            // Of a time in which it moved, nobody can say what was measured where.
            if span
                .profile()
                .is_some_and(|profile| profile.runs() == profile.runs_on(executor))
            {
                numbers.merge(span);
            }
        }
        Some(Self { executor, numbers })
    }

    /// Runs that were measured.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.numbers.profile().map_or(0, Profile::runs)
    }

    /// What to do about it.
    #[must_use]
    pub fn advise(&self) -> Advice {
        let runs = self.runs();
        let profile = self.numbers.profile().filter(|_| runs >= Self::ENOUGH);
        let Some(profile) = profile else {
            return Advice {
                verdict: Verdict::NotEnough,
                reason: format!("ran {}, and {} are needed", plural(runs, "time"), Self::ENOUGH),
                gain: None,
            };
        };
        let task = Measured::of(profile, &self.numbers.run, self.numbers.get(Count::Crashed));
        let moved = match self.executor {
            Executor::Async => task.on_async(),
            Executor::Thread => task.on_thread(),
            Executor::Process => task.on_process(),
        };
        match moved {
            // What must stay may still be packed.
            Advice {
                verdict: Verdict::Keep, ..
            } => task.pack(self.executor).unwrap_or(moved),
            _ => moved,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::name::{QueueName, TaskName};
    use crate::receipt::Receipt;

    fn figures(executor: Executor, runs: u64, receipt: &Receipt) -> Figures {
        let mut numbers = Numbers::default();
        for _ in 0..runs {
            numbers.record(executor, receipt, Duration::from_micros(20));
        }
        Figures { executor, numbers }
    }

    /// A run of so many microseconds, a part of them on a CPU; on `async` that was one poll.
    fn ran(executor: Executor, run: u64, cpu: u64) -> Receipt {
        Receipt {
            enqueue: 10,
            fetch: 10,
            claim: 20,
            dispatch: match executor {
                Executor::Async => 4,
                Executor::Thread => 12,
                Executor::Process => 60,
            },
            run,
            cpu: Some(cpu),
            blocked: (executor == Executor::Async).then_some(cpu),
            ..Receipt::default()
        }
    }

    fn advised(executor: Executor, run: u64, cpu: u64) -> Verdict {
        figures(executor, 100, &ran(executor, run, cpu)).advise().verdict
    }

    #[test]
    fn each_executor_gets_what_it_is_for() {
        use Executor::{Async, Process, Thread};
        use Verdict::{Keep, Pack, RunOn};
        for (run, cpu, verdicts) in [
            // It waits: on the loop, wherever it comes from.
            (20_000, 100, [Keep, RunOn(Async), RunOn(Async)]),
            (20_000, 9_000, [Keep, RunOn(Async), RunOn(Async)]),
            // It computes for long: off the loop, and a thread may keep it.
            (43_000, 42_000, [RunOn(Process), Keep, Keep]),
            // For a short time.
            (7_000, 7_000, [RunOn(Thread), Keep, Keep]),
            // So briefly that nobody feels it, but a thread does it as well.
            (4_000, 4_000, [Keep, Keep, Keep]),
            // So short that the way to a child is felt, and the way to a thread is not.
            (400, 400, [Keep, Keep, RunOn(Async)]),
            // Shorter than all ways.
            (8, 8, [Pack(50), RunOn(Async), RunOn(Async)]),
            // It does both, in pieces that some would feel, and that all would.
            (30_000, 21_000, [Keep, Keep, Keep]),
            (200_000, 90_000, [Keep, Keep, Keep]),
        ] {
            for (executor, verdict) in Executor::ALL.into_iter().zip(verdicts) {
                assert_eq!(
                    advised(executor, run, cpu),
                    verdict,
                    "{executor}, {run} µs, {cpu} of them CPU"
                );
            }
        }
        let slow_child = Receipt {
            dispatch: 1_900,
            ..ran(Process, 7_000, 7_000)
        };
        assert_eq!(figures(Process, 100, &slow_child).advise().verdict, RunOn(Thread));
    }

    #[test]
    fn it_says_why_and_what_it_brings() {
        let said = |figures: &Figures| {
            let advice = figures.advise();
            (advice.reason, advice.gain.unwrap_or_default())
        };
        let resize = figures(Executor::Async, 100, &ran(Executor::Async, 44_000, 42_500));
        assert_eq!(
            said(&resize),
            (
                "blocked the loop 43.0 ms at p99 and is 97 % CPU".into(),
                "the other tasks of the loop wait up to 43.0 ms less; its own throughput stays about the same".into()
            )
        );
        let ping = figures(Executor::Async, 100, &ran(Executor::Async, 8, 8));
        assert_eq!(
            said(&ping),
            (
                "runs 8 µs and costs 42 µs to move".into(),
                "moving falls from 84 % to about 10 % of the time; client.enqueue_packed(50, …) sends them".into()
            )
        );
        let (reason, gain) = said(&figures(Executor::Thread, 100, &ran(Executor::Thread, 20_000, 2_000)));
        assert_eq!(reason, "holds a thread while it waits 90 % of its time");
        assert!(gain.contains("up to 10× the jobs"), "{gain}");
    }

    #[test]
    fn below_fifty_runs_nothing_is_said() {
        let receipt = ran(Executor::Async, 43_000, 42_000);
        let few = figures(Executor::Async, 49, &receipt).advise();
        assert_eq!(few.verdict, Verdict::NotEnough);
        assert_eq!(few.reason, "ran 49 times, and 50 are needed");
        assert!(!few.verdict.changes());
        assert!(figures(Executor::Async, 50, &receipt).advise().verdict.changes());
    }

    #[test]
    fn what_crashes_or_holds_much_memory_stays_in_a_process() {
        let waits = ran(Executor::Process, 20_000, 100);
        let mut crashes = figures(Executor::Process, 5_000, &waits);
        assert_eq!(crashes.advise().verdict, Verdict::RunOn(Executor::Async));
        for _ in 0..3 {
            crashes.numbers.count(Count::Crashed);
        }
        let advice = crashes.advise();
        assert_eq!(advice.verdict, Verdict::Keep);
        assert_eq!(
            advice.reason,
            "crashed 3 times in 5,000 runs, which only a process takes"
        );
        let big = Receipt {
            peak: Some(2 << 30),
            ..waits
        };
        let advice = figures(Executor::Process, 100, &big).advise();
        assert!(
            advice.verdict == Verdict::Keep && advice.reason.contains("MiB"),
            "{advice:?}"
        );
    }

    #[test]
    fn a_wait_without_an_await_is_told_from_computing() {
        let blocking = Receipt {
            blocked: Some(200_000),
            ..ran(Executor::Async, 200_000, 300)
        };
        let advice = figures(Executor::Async, 100, &blocking).advise();
        assert_eq!(advice.verdict, Verdict::RunOn(Executor::Thread));
        assert!(advice.reason.contains("without an await"), "{advice:?}");
    }

    #[test]
    fn on_a_busy_machine_the_calm_runs_tell() {
        let mut numbers = figures(Executor::Thread, 30, &ran(Executor::Thread, 4_000, 3_900)).numbers;
        // Most runs wait for a core as long as they have one.
        numbers.merge(&figures(Executor::Thread, 100, &ran(Executor::Thread, 8_000, 3_900)).numbers);
        let executor = Executor::Thread;
        let advice = Figures { executor, numbers }.advise();
        assert_eq!(advice.verdict, Verdict::Keep, "{advice:?}");
    }

    #[test]
    fn what_was_not_measured_is_left_alone() {
        for executor in Executor::ALL {
            let unknown = Receipt {
                cpu: None,
                ..ran(executor, 20_000, 0)
            };
            let advice = figures(executor, 100, &unknown).advise();
            assert!(
                advice.verdict == Verdict::Keep && advice.reason.contains("CPU time"),
                "{advice:?}"
            );
        }
    }

    #[test]
    fn a_pack_does_not_run_for_long() {
        let slow_store = |run| Receipt {
            claim: 80_000,
            ..ran(Executor::Async, run, 0)
        };
        let verdict = |run| figures(Executor::Async, 100, &slow_store(run)).advise().verdict;
        assert_eq!(verdict(8), Verdict::Pack(1_000));
        assert_eq!(verdict(900), Verdict::Pack(100));
        assert_eq!(verdict(10_000), Verdict::Keep);
    }

    #[test]
    fn a_batch_that_is_enqueued_or_fetched_slowly_is_no_reason_to_pack() {
        let batch = |run| Receipt {
            enqueue: 5_000,
            fetch: 5_000,
            ..ran(Executor::Async, run, 0)
        };
        let verdict = |run| figures(Executor::Async, 100, &batch(run)).advise().verdict;
        assert_eq!(verdict(100), Verdict::Keep);
        assert_eq!(verdict(8), Verdict::Pack(50));
    }

    #[test]
    fn only_the_time_on_the_newest_executor_counts() {
        let tally = |minute, executor, runs| {
            let mut tally = Tally::new(minute, QueueName::default(), TaskName::new("t").unwrap());
            tally.numbers = figures(executor, runs, &ran(executor, 20_000, 100)).numbers;
            tally
        };
        let moved = [
            tally(1_000, Executor::Thread, 400),
            // Within these ten minutes it moved.
            tally(1_011, Executor::Thread, 40),
            tally(1_015, Executor::Async, 50),
            tally(1_021, Executor::Async, 60),
        ];
        let figures = Figures::of(&moved).unwrap();
        assert_eq!(
            (figures.executor, figures.runs(), figures.numbers.run.count()),
            (Executor::Async, 60, 60)
        );
        assert_eq!(Figures::of(&[]), None);
    }
}
