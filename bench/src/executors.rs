//! Each executor beside the bare thing that it is made of, all in one run and in turns.

mod echo;
mod inside;
mod python;
mod rates;
mod singly;
mod tasks;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use millhand_proto::Payload;
use millhand_worker::{Bare, Recycle};

pub(crate) use self::echo::{echo, is_echo};
use self::inside::spawned;
use self::python::Python;
use self::rates::{AT_ONCE, at_once, each};
use self::singly::{Medians, Singly};
use self::tasks::{Every, OnAsync, OnProcess, Spin, bare, every_byte, nothing, ran, ran_out};
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

/// What one round found.
struct Round {
    all_cores: Medians,
    one_core: Medians,
    /// Jobs per second.
    process_rate: f64,
    python: Python,
    /// Milliseconds.
    big: f64,
    copied: f64,
    /// Microseconds for each.
    on_async: f64,
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
    let two = Arc::new(bare(2, Recycle::default())?);
    let mut bench = Bench {
        jobs: whole(options.jobs.max(AT_ONCE * 10)),
        two,
        one: bare(1, Recycle::default())?,
        all_cores: Singly::on_all_cores().await?,
        one_core: Singly::on_one_core().await?,
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
    all_cores: Singly,
    one_core: Singly,
    runtime: tokio::runtime::Runtime,
    big: Bytes,
}

impl Bench {
    async fn warm_up(&mut self) -> Result<()> {
        ran::<OnProcess>(&self.one, &nothing(&OnProcess())?).await?;
        at_once::<OnProcess>(&self.two, &nothing(&OnProcess())?, AT_ONCE * 10).await?;
        at_once::<OnAsync>(&self.two, &nothing(&OnAsync())?, AT_ONCE * 10).await?;
        Ok(())
    }

    async fn round(&mut self) -> Result<Round> {
        let few = self.jobs / 10;
        let all_cores = self.all_cores.round(few).await?;
        let one_core = self.one_core.round(few).await?;
        let (_, took) = at_once::<OnProcess>(&self.two, &nothing(&OnProcess())?, self.jobs).await?;
        let process_rate = float(self.jobs) / took.as_secs_f64();
        let python = Python::measure(few, BIG).await?;
        let (big, copied) = self.bigs().await?;
        let (_, futures) = at_once::<OnAsync>(&self.two, &nothing(&OnAsync())?, self.jobs).await?;
        let spawned = spawned(&self.runtime, self.jobs).await?;
        let (killed, next) = self.limits().await?;
        Ok(Round {
            all_cores,
            one_core,
            process_rate,
            python,
            big,
            copied,
            on_async: each(futures, self.jobs),
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
                anyhow::Ok(started.elapsed().saturating_sub(LIMIT))
            };
            let second = async {
                ran::<OnProcess>(&self.one, &no_op).await?;
                anyhow::Ok(started.elapsed().saturating_sub(LIMIT))
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
        self.all_cores.stop()?;
        self.one_core.stop()?;
        self.runtime.shutdown_background();
        Ok(())
    }
}

fn report(options: &Options, machine: Machine, rounds: &[Round], pids: usize) -> Report {
    let of = |value: fn(&Round) -> (f64, f64)| rounds.iter().map(value);
    let singly = |which: fn(&Round) -> Medians| rounds.iter().map(which).collect::<Vec<_>>();
    let python = rounds.first().map_or("?", |round| &round.python.version);
    let python = format!("Python {python} ProcessPoolExecutor");
    let rate = of(|r| (r.process_rate, r.python.per_second));
    let big = "64 MiB to a child that reads every byte";
    let by_python = of(|r| (r.big, r.python.big_ms));
    let one_python = rounds.iter().map(|r| (r.all_cores.process, r.python.one_us));
    let on_async = of(|r| (r.on_async, r.spawned));
    let mut beside = Vec::new();
    beside.extend(singly::rows("all cores", &singly(|r| r.all_cores)));
    beside.extend(singly::rows("one core", &singly(|r| r.one_core)));
    beside.extend([
        Beside::of("process, no-op, p50, all cores", python.clone(), "µs", one_python),
        Beside::of("process, no-op, 2 children, jobs", python.clone(), "1/s", rate).at_least(10.0),
        Beside::of(big, "a copy that is read", "ms", of(|r| (r.big, r.copied))).at_most(2.0),
        Beside::of(big, python, "ms", by_python).at_most(0.2),
        Beside::of("async, no-op, each of many at once", "spawn and join", "µs", on_async).at_most_or_more(2.0, 1.5),
    ]);
    let rate = Spread::of(rounds.iter().map(|r| r.process_rate)).median;
    let millis = |times: Vec<Duration>| median_micros(times) / 1e3;
    let killed = millis(rounds.iter().flat_map(|r| r.killed.clone()).collect());
    let next = millis(rounds.iter().flat_map(|r| r.next.clone()).collect());
    Report {
        machine,
        settings: vec![("jobs", options.jobs), ("rounds", options.rounds), ("at once", AT_ONCE)],
        pairs: Vec::new(),
        beside,
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
