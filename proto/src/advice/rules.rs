//! The rules of the adviser, and where they draw their lines.

use std::time::Duration;

use super::{Advice, Verdict};
use crate::executor::Executor;
use crate::histogram::Histogram;
use crate::limits;
use crate::profile::{Measure, Profile};
use crate::words::{grouped, human, plural};

/// A task whose runs are on a CPU for less than this share of their time waits enough for others to gain.
const COMPUTES: f64 = 0.8;
/// One that waits at least so much may compute for longer than is short: the loop gains more than it loses.
const MOSTLY_WAITS: f64 = 0.5;
/// A poll that is shorter is too brief to be felt on the loop: a tenth of the watchdog's limit.
const BRIEF: Duration = Duration::from_millis(5);
/// Only runs below this are packed: beside longer ones moving is little work, however long it takes.
const TINY: Duration = Duration::from_millis(1);
/// Up to this, CPU work is short: it suits a thread.
const SHORT: Duration = Duration::from_millis(10);
/// Everybody on the loop feels a poll that is as long: the watchdog's limit.
const LONG: Duration = Duration::from_millis(50);
/// Getting to the executor and back may take this share of a slot's time.
const HANDING: f64 = 0.15;
/// Packing brings the overhead share down to this.
const PACKED: f64 = 0.1;
/// A pack should not run longer: its jobs end together.
const PACK_RUN: Duration = Duration::from_millis(100);
/// A process that held so much gives it back only by ending.
const MUCH_MEMORY: u64 = 512 << 20;

/// The figures that count.
pub(super) struct Measured<'a> {
    profile: &'a Profile,
    /// In the middle.
    run: Duration,
    crashed: u64,
    /// The share of the run that was on a CPU. On a busy machine a run waits for its core too, and seems
    /// to wait; so when the runs that were disturbed least computed, it computes.
    cpu: Option<f64>,
}

impl<'a> Measured<'a> {
    pub(super) fn of(profile: &'a Profile, run: &Histogram, crashed: u64) -> Self {
        let low = |histogram: &Histogram| histogram.quantile(0.1).unwrap_or_default().as_secs_f64();
        let calm = low(profile.measure(Measure::Cpu)) / low(run).max(1e-6);
        Self {
            profile,
            run: run.quantile(0.5).unwrap_or_default(),
            crashed,
            cpu: profile.cpu_share().map(|share| match share {
                ..COMPUTES if calm >= COMPUTES => calm.min(1.0),
                _ => share,
            }),
        }
    }

    fn p(&self, what: Measure, q: f64) -> Duration {
        self.profile.measure(what).quantile(q).unwrap_or_default()
    }

    /// The medians of some phases, together.
    fn middle(&self, phases: &[Measure]) -> Duration {
        phases.iter().map(|phase| self.p(*phase, 0.5)).sum()
    }

    /// The share of a slot's time that these phases take.
    fn handing(&self, phases: &[Measure]) -> f64 {
        let handing = self.middle(phases).as_secs_f64();
        handing / (handing + self.run.as_secs_f64()).max(f64::MIN_POSITIVE)
    }

    pub(super) fn on_async(&self) -> Advice {
        let blocked = self.p(Measure::Blocked, 0.99);
        let held = format!("blocked the loop {} at p99", human(blocked));
        let Some(cpu) = self.cpu else {
            return keep(format!("{held}; its CPU time was not measured"));
        };
        let spared = format!("the other tasks of the loop wait up to {} less", human(blocked));
        if cpu >= COMPUTES && blocked >= BRIEF {
            let executor = if blocked < SHORT {
                Executor::Thread
            } else {
                Executor::Process
            };
            return run_on(
                executor,
                format!("{held} and is {} CPU", percent(cpu)),
                format!("{spared}; its own throughput stays about the same"),
            );
        }
        if cpu < COMPUTES && blocked >= SHORT {
            // The longest poll was mostly no computing: it waits in a call that does not await.
            if self.p(Measure::Cpu, 0.99) < blocked / 2 {
                return run_on(
                    Executor::Thread,
                    format!(
                        "{held} while it used {} of CPU: it waits without an await",
                        human(self.p(Measure::Cpu, 0.99))
                    ),
                    format!("{spared}; or let it await, and leave it on async"),
                );
            }
            return keep(format!(
                "waits {} of its time, but {held}: leave its CPU part to a task of its own, on thread or process",
                percent(1.0 - cpu)
            ));
        }
        if cpu >= COMPUTES {
            return keep(format!("is {} CPU, but so brief that it {held}", percent(cpu)));
        }
        keep(format!("waits {} of its time and {held}", percent(1.0 - cpu)))
    }

    /// To the loop, when it waits.
    fn awaits(&self, cpu: f64, here: Executor) -> Option<Advice> {
        let slot = if here == Executor::Thread { "thread" } else { "process" };
        if cpu >= COMPUTES {
            return None;
        }
        let piece = self.p(Measure::Cpu, 0.99);
        let waits = percent(1.0 - cpu);
        if piece >= LONG || (piece >= SHORT && cpu > MOSTLY_WAITS) {
            return Some(keep(format!(
                "waits {waits} of its time, but computes for {} at p99, which would block the loop: more {slot} slots \
                 bring as much",
                human(piece)
            )));
        }
        Some(run_on(
            Executor::Async,
            format!("holds a {slot} while it waits {waits} of its time"),
            format!(
                "as many can wait at once as there are async slots; with them one core does up to {} the jobs",
                times(1.0 / cpu.max(0.01))
            ),
        ))
    }

    /// To the loop, when it is so brief that the way to where it runs is long beside it.
    fn too_brief(&self, phases: &[Measure]) -> Option<Advice> {
        let handing = self.handing(phases);
        (self.run < BRIEF && handing > HANDING).then(|| {
            run_on(
                Executor::Async,
                format!(
                    "runs {} and holds its slot {} longer to get there and back",
                    human(self.run),
                    human(self.middle(phases))
                ),
                format!(
                    "up to {} the jobs for each slot, and it is too brief to block the loop",
                    times(1.0 / (1.0 - handing))
                ),
            )
        })
    }

    pub(super) fn on_thread(&self) -> Advice {
        let Some(cpu) = self.cpu else {
            return keep("has no measured CPU time".into());
        };
        self.awaits(cpu, Executor::Thread)
            .or_else(|| self.too_brief(&[Measure::Claim, Measure::Dispatch, Measure::Encode]))
            .unwrap_or_else(|| keep(format!("is {} CPU and runs {}", percent(cpu), human(self.run))))
    }

    pub(super) fn on_process(&self) -> Advice {
        if self.crashed > 0 {
            let (crashed, runs) = (plural(self.crashed, "time"), grouped(self.profile.runs()));
            return keep(format!("crashed {crashed} in {runs} runs, which only a process takes"));
        }
        let peak = self.profile.measure(Measure::Peak).quantile(0.99);
        let peak = peak
            .and_then(|bytes| u64::try_from(bytes.as_micros()).ok())
            .unwrap_or(0);
        if peak >= MUCH_MEMORY {
            return keep(format!(
                "held {} MiB at p99, which only a process can be limited in and gives back",
                grouped(peak >> 20)
            ));
        }
        let Some(cpu) = self.cpu else {
            return keep("has no measured CPU time".into());
        };
        if let Some(advice) = self
            .awaits(cpu, Executor::Process)
            .or_else(|| self.too_brief(&[Measure::Claim, Measure::Dispatch, Measure::Encode]))
        {
            return advice;
        }
        let handing = self.handing(&[Measure::Dispatch]);
        if self.run < SHORT && handing > HANDING {
            return run_on(
                Executor::Thread,
                format!(
                    "runs {} and takes {} to a child process and back",
                    human(self.run),
                    human(self.p(Measure::Dispatch, 0.5))
                ),
                format!(
                    "up to {} the jobs for each slot, if it can be trusted with one",
                    times(1.0 / (1.0 - handing))
                ),
            );
        }
        keep(format!("is {} CPU and runs {}", percent(cpu), human(self.run)))
    }

    /// Many jobs in one parcel, when moving one takes longer than running it.
    pub(super) fn pack(&self, executor: Executor) -> Option<Advice> {
        // Enqueue and fetch are no cost of one job: all that were enqueued or fetched in one batch have its whole
        // latency. In the others a job waits for its batch only while many are under way, so what they cost is
        // seen where they took least.
        let parcel = [Measure::Claim, Measure::Settle];
        let least: Duration = parcel.iter().map(|phase| self.p(*phase, 0.1)).sum();
        let moved = least
            + match executor {
                // There it is the wait for a thread of the loop, which a parcel does not shorten.
                Executor::Async => Duration::ZERO,
                _ => self.p(Measure::Dispatch, 0.1),
            };
        if self.run >= TINY || moved <= self.run || self.crashed > 0 {
            return None;
        }
        let run = self.run.max(Duration::from_micros(1)).as_secs_f64();
        let ratio = moved.as_secs_f64() / run;
        let most = (PACK_RUN.as_secs_f64() / run).min(limits::PARCEL_JOBS as f64);
        let pack = round_up(ratio * (1.0 - PACKED) / PACKED).min(round_down(most));
        let after = ratio / f64::from(pack);
        Some(Advice {
            verdict: Verdict::Pack(pack),
            reason: format!("runs {} and costs {} to move", human(self.run), human(moved)),
            gain: Some(format!(
                "moving falls from {} to about {} of the time; client.enqueue_packed({pack}, …) sends them",
                percent(ratio / (ratio + 1.0)),
                percent(after / (after + 1.0))
            )),
        })
    }
}

fn keep(reason: String) -> Advice {
    Advice {
        verdict: Verdict::Keep,
        reason,
        gain: None,
    }
}

fn run_on(executor: Executor, reason: String, gain: String) -> Advice {
    Advice {
        verdict: Verdict::RunOn(executor),
        reason,
        gain: Some(gain),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// `3×`, `1.4×`.
fn times(factor: f64) -> String {
    if factor >= 9.5 {
        format!("{factor:.0}×")
    } else {
        format!("{factor:.1}×")
    }
}

/// The numbers that people say: 1, 2, 5, 10, 20, 50 … up to a parcel's most.
fn round() -> impl DoubleEndedIterator<Item = u32> {
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000].into_iter()
}

fn round_up(number: f64) -> u32 {
    round().find(|n| f64::from(*n) >= number).unwrap_or(1_000)
}

fn round_down(number: f64) -> u32 {
    round().rev().find(|n| f64::from(*n) <= number).unwrap_or(1)
}
