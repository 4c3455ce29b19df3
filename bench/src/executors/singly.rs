//! One job at a time, beside the bare things. On two idle cores nearly all of it is the time in which a core
//! wakes up, as chance would have it; on one core it is the work that is done. So both are measured.

use std::time::Duration;

use anyhow::Result;
use millhand_worker::{Bare, Recycle};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::echo::{Echo, Kind};
use super::inside::BareThread;
use super::rates::one_by_one;
use super::tasks::{OnProcess, OnThread, bare, nothing, ran};
use crate::figures::{Beside, median_micros};

/// Medians of one round, in microseconds.
#[derive(Clone, Copy)]
pub(super) struct Medians {
    pub(super) process: f64,
    echo_tokio: f64,
    echo_blocking: f64,
    thread: f64,
    channel: f64,
}

/// What runs one job at a time: all of it started, and called, on the same cores.
pub(super) struct Singly {
    cores: CpuSet,
    bare: Bare,
    echo_tokio: Echo,
    echo_blocking: Echo,
    thread: BareThread,
}

impl Singly {
    /// On all cores that this process has.
    pub(super) async fn on_all_cores() -> Result<Self> {
        Self::on(sched_getaffinity(None)?).await
    }

    /// On the first of them.
    pub(super) async fn on_one_core() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        if let Some(first) = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)) {
            one.set(first);
        }
        Self::on(one).await
    }

    async fn on(cores: CpuSet) -> Result<Self> {
        let _moved = Moved::to(&cores)?;
        let mut this = Self {
            cores,
            bare: bare(1, Recycle::default())?,
            echo_tokio: Echo::start(Kind::Tokio)?,
            echo_blocking: Echo::start(Kind::Blocking)?,
            thread: BareThread::start(),
        };
        // The child starts here too.
        ran::<OnProcess>(&this.bare, &nothing(&OnProcess())?).await?;
        this.round(100).await?;
        Ok(this)
    }

    /// So many of each.
    pub(super) async fn round(&mut self, count: usize) -> Result<Medians> {
        let _moved = Moved::to(&self.cores)?;
        let median = |times: Vec<Duration>| median_micros(times);
        Ok(Medians {
            process: median(one_by_one::<OnProcess>(&self.bare, &nothing(&OnProcess())?, count).await?),
            echo_tokio: median(self.echo_tokio.times(count).await?),
            echo_blocking: median(self.echo_blocking.times(count).await?),
            thread: median(one_by_one::<OnThread>(&self.bare, &nothing(&OnThread())?, count).await?),
            channel: median(self.thread.times(count).await?),
        })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.echo_tokio.stop()?;
        self.echo_blocking.stop()
    }
}

/// This thread on other cores than it was, until dropped; what it starts meanwhile stays there.
struct Moved(CpuSet);

impl Moved {
    fn to(cores: &CpuSet) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, cores)?;
        Ok(Self(before))
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// The rows of these rounds.
pub(super) fn rows(place: &str, rounds: &[Medians]) -> [Beside; 3] {
    let of = |value: fn(&Medians) -> (f64, f64)| rounds.iter().map(value);
    let process = format!("process, no-op, p50, {place}");
    let tokio = of(|r| (r.process, r.echo_tokio));
    let blocking = of(|r| (r.process, r.echo_blocking));
    let thread = of(|r| (r.thread, r.channel));
    [
        Beside::of(process.clone(), "a tokio socket there and back", "µs", tokio).at_most(1.5),
        Beside::of(process, "a blocking socket there and back", "µs", blocking).at_most(2.5),
        Beside::of(
            format!("thread, no-op, p50, {place}"),
            "a channel to a thread and back",
            "µs",
            thread,
        )
        .at_most(2.0),
    ]
}
