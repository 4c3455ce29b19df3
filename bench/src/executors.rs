//! Each executor beside the bare thing that it is made of, all in one run and in turns.

mod echo;
mod inside;
mod python;
mod rates;
mod tasks;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use millhand_proto::Payload;
use millhand_worker::{Bare, Recycle};

use self::echo::{Echo, Kind};
pub(crate) use self::echo::{echo, is_echo};
use self::inside::{BareThread, spawned};
use self::python::Python;
use self::rates::{AT_ONCE, at_once, each, one_by_one};
use self::tasks::{Every, OnAsync, OnProcess, OnThread, Spin, bare, every_byte, nothing, ran, ran_out};
use crate::figures::{Beside, Number, Spread, float, median_micros};
use crate::machine::Machine;
use crate::options::Options;
use crate::report::Report;

/// Bytes of the big argument.
const BIG: usize = 64 << 20;

/// Big arguments in each round.
const BIGS: usize = 3;

/// Limits reached in each round.
const LIMITS: usize = 5;

/// The hard limit of a job without end.
const LIMIT: Duration = Duration::from_millis(50);

/// What one round found: ours, then the bare ones.
struct Round {
    process: f64,
    echo_tokio: f64,
    echo_blocking: f64,
    process_rate: f64,
    python: Python,
    big: f64,
    copied: f64,
    thread: f64,
    channel: f64,
    asynchronous: f64,
    spawned: f64,
    killed: Vec<Duration>,
    next: Vec<Duration>,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    // As a task of the runtime, as a worker's attempts are.
    tokio::spawn(measure(options.clone())).await?
}

async fn measure(options: Options) -> Result<Report> {
    // First: in a child it goes no further.
    let bare_two = Arc::new(bare(2, Recycle::default())?);
    let bare_one = bare(1, Recycle::default())?;
    let mut bench = Bench {
        jobs: whole(options.jobs.max(AT_ONCE * 10)),
        two: bare_two,
        one: bare_one,
        echo_tokio: Echo::start(Kind::Tokio)?,
        echo_blocking: Echo::start(Kind::Blocking)?,
        thread: BareThread::start(),
        runtime: tokio::runtime::Builder::new_multi_thread().build()?,
        big: Bytes::from(vec![1; BIG]),
    };
    let machine = Machine::look(vec![], &std::env::temp_dir());
    bench.warm_up().await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(bench.round().await?);
    }
    let pids = bench.pids(whole(10_000)).await?;
    bench.end()?;
    Ok(report(&options, machine, &rounds, pids))
}

/// So many that each of those at once has as many.
fn whole(jobs: usize) -> usize {
    jobs.next_multiple_of(AT_ONCE)
}

struct Bench {
    jobs: usize,
    two: Arc<Bare>,
    one: Bare,
    echo_tokio: Echo,
    echo_blocking: Echo,
    thread: BareThread,
    runtime: tokio::runtime::Runtime,
    big: Bytes,
}

impl Bench {
    async fn warm_up(&mut self) -> Result<()> {
        self.echo_tokio.times(100).await?;
        self.echo_blocking.times(100).await?;
        ran::<OnProcess>(&self.one, &nothing(&OnProcess())?).await?;
        at_once::<OnProcess>(&self.two, &nothing(&OnProcess())?, AT_ONCE * 10).await?;
        at_once::<OnAsync>(&self.two, &nothing(&OnAsync())?, AT_ONCE * 10).await?;
        Ok(())
    }

    async fn round(&mut self) -> Result<Round> {
        let few = self.jobs / 10;
        let no_op = nothing(&OnProcess())?;
        let process = median_micros(one_by_one::<OnProcess>(&self.one, &no_op, few).await?);
        let echo_tokio = median_micros(self.echo_tokio.times(few).await?);
        let echo_blocking = median_micros(self.echo_blocking.times(few).await?);
        let (_, took) = at_once::<OnProcess>(&self.two, &no_op, self.jobs).await?;
        let process_rate = float(self.jobs) / took.as_secs_f64();
        let python = Python::measure(few, BIG).await?;
        let (big, copied) = self.bigs().await?;
        let thread = one_by_one::<OnThread>(&self.two, &nothing(&OnThread())?, few).await?;
        let channel = self.thread.times(few).await?;
        let (_, futures) = at_once::<OnAsync>(&self.two, &nothing(&OnAsync())?, self.jobs).await?;
        let spawned = spawned(&self.runtime, self.jobs).await?;
        let (killed, next) = self.limits().await?;
        Ok(Round {
            process,
            echo_tokio,
            echo_blocking,
            process_rate,
            python,
            big,
            copied,
            thread: median_micros(thread),
            channel: median_micros(channel),
            asynchronous: each(futures, self.jobs),
            spawned: each(spawned, self.jobs),
            killed,
            next,
        })
    }

    /// Milliseconds for a big argument to a child that reads it, and for a copy that is read here.
    async fn bigs(&self) -> Result<(f64, f64)> {
        let args = Payload::encode(&Every(self.big.clone().into()))?;
        let (mut ours, mut copies) = (Vec::new(), Vec::new());
        for _ in 0..BIGS {
            let started = Instant::now();
            black_box(ran::<Every>(&self.one, &args).await?);
            ours.push(started.elapsed());
            let started = Instant::now();
            let copy = black_box(self.big.to_vec());
            black_box(every_byte(&copy));
            copies.push(started.elapsed());
        }
        Ok((median_micros(ours) / 1e3, median_micros(copies) / 1e3))
    }

    /// From the hard limit to the outcome, when the process is gone, and to the end of a job that waited
    /// behind it.
    async fn limits(&self) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let (spin, no_op) = (nothing(&Spin())?, nothing(&OnProcess())?);
        let (mut killed, mut next) = (Vec::new(), Vec::new());
        for _ in 0..LIMITS {
            let started = Instant::now();
            let first = async {
                ran_out::<Spin>(&self.one, &spin, LIMIT).await?;
                anyhow::Ok(started.elapsed() - LIMIT)
            };
            let second = async {
                ran::<OnProcess>(&self.one, &no_op).await?;
                anyhow::Ok(started.elapsed() - LIMIT)
            };
            let (first, second) = tokio::try_join!(first, second)?;
            killed.push(first);
            next.push(second);
        }
        Ok((killed, next))
    }

    /// Processes that so many jobs ran in.
    async fn pids(&self, jobs: usize) -> Result<usize> {
        let (pids, _) = at_once::<OnProcess>(&self.two, &nothing(&OnProcess())?, jobs).await?;
        Ok(pids.into_iter().collect::<HashSet<u32>>().len())
    }

    fn end(self) -> Result<()> {
        self.echo_tokio.stop()?;
        self.echo_blocking.stop()?;
        self.runtime.shutdown_background();
        Ok(())
    }
}

fn report(options: &Options, machine: Machine, rounds: &[Round], pids: usize) -> Report {
    let of = |value: fn(&Round) -> (f64, f64)| rounds.iter().map(value);
    let python = rounds.first().map_or("?", |round| &round.python.version);
    let python = format!("Python {python} ProcessPoolExecutor");
    let rate = Spread::of(rounds.iter().map(|r| r.process_rate)).median;
    let millis = |times: Vec<Duration>| median_micros(times) / 1e3;
    let killed = millis(rounds.iter().flat_map(|r| r.killed.clone()).collect());
    let next = millis(rounds.iter().flat_map(|r| r.next.clone()).collect());
    Report {
        machine,
        settings: vec![("jobs", options.jobs), ("rounds", options.rounds), ("at once", AT_ONCE)],
        pairs: Vec::new(),
        beside: vec![
            Beside::of(
                "process, no-op, one at a time, p50",
                "a tokio socket there and back",
                "µs",
                of(|r| (r.process, r.echo_tokio)),
            )
            .at_most(1.5),
            Beside::of(
                "process, no-op, one at a time, p50",
                "a blocking socket there and back",
                "µs",
                of(|r| (r.process, r.echo_blocking)),
            )
            .at_most(2.5),
            Beside::of(
                "process, no-op, one at a time, p50",
                python.clone(),
                "µs",
                of(|r| (r.process, r.python.one_us)),
            ),
            Beside::of(
                "process, no-op, 2 children, jobs",
                python.clone(),
                "1/s",
                of(|r| (r.process_rate, r.python.per_second)),
            )
            .at_least(10.0),
            Beside::of(
                "64 MiB to a child that reads every byte",
                "a copy that is read",
                "ms",
                of(|r| (r.big, r.copied)),
            )
            .at_most(2.0),
            Beside::of(
                "64 MiB to a child that reads every byte",
                python,
                "ms",
                of(|r| (r.big, r.python.big_ms)),
            )
            .at_most(0.2),
            Beside::of(
                "thread, no-op, one at a time, p50",
                "a channel to a thread and back",
                "µs",
                of(|r| (r.thread, r.channel)),
            )
            .at_most(2.0),
            Beside::of(
                "async, no-op, each of many at once",
                "spawn and join",
                "µs",
                of(|r| (r.asynchronous, r.spawned)),
            )
            .at_most_or_more(2.0, 1.5),
        ],
        times: Vec::new(),
        numbers: vec![
            Number::of("process, no-op, 2 children", rate, "1/s").at_least(100_000.0),
            Number::of("hard limit: from the deadline to killed, median", killed, "ms").at_most(50.0),
            Number::of("hard limit: from the deadline to the end of the next job", next, "ms").at_most(100.0),
            Number::of("processes that ran 10,000 jobs on 2 slots", float(pids), "").at_most(3.0),
        ],
        baselines: Vec::new(),
    }
}
