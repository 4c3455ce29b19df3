//! Delayed jobs: how late they start when little is due, and when much is due at once.

mod allowed;
mod hops;
mod late;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use millhand_broker::{Backend, Clock};
use millhand_client::Client;
use millhand_proto::Timestamp;
use tokio::sync::oneshot;

use self::allowed::Waits;
use self::late::{Late, Starts};
use crate::figures::{Number, Times, float};
use crate::machine::Machine;
use crate::millhand::accepted;
use crate::options::Options;
use crate::report::Report;
use crate::servers::Servers;
use crate::stopwatch::{Sample, Start};

/// Jobs of the quiet part, and the longest of their delays.
const FEW: usize = 200;
const LONGEST: Duration = Duration::from_secs(20);
/// All jobs of the other part are due within this, and not sooner than so long after the last of
/// them was enqueued.
const MINUTE: Duration = Duration::from_secs(60);
/// Delayed jobs per second that are enqueued also on a busy machine, and what it takes to begin.
const ENQUEUED: usize = 4_000;
const BEGIN: Duration = Duration::from_secs(5);
/// How long jobs that are on time are looked at before.
const BEFORE: Duration = Duration::from_secs(20);
/// Messages by which hops are measured, and pairs of queues.
const HOPS: usize = 20_000;
const PAIRS: usize = 4;
/// The goals, in seconds, and where RabbitMQ alone takes longer, as a multiple of that.
const QUIET: f64 = 1.5;
const CROWDED: f64 = 30.0;
const BESIDE_RAW: f64 = 1.5;

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let servers = Servers::of(options.urls.as_ref()).await?;
    let machine = Machine::look(servers.versions().await?, &options.dir);
    eprintln!("raw hops");
    let one = hops::rate(&servers, 1, HOPS).await?;
    let several = hops::rate(&servers, PAIRS, HOPS).await?;
    let backend = servers.backend().await?;
    let starts = Starts::default();
    let worker = starts.worker(&backend);

    eprintln!("{FEW} jobs with delays of 1 s to {LONGEST:?}");
    let (few, few_early) = few(&backend, &starts).await?;
    eprintln!("{} jobs due within {MINUTE:?}", options.jobs);
    let crowd = crowd(options, &backend, &starts).await?;
    worker.stop().await?;

    let allowed = Times::of(
        "what raw hops would allow: lateness",
        allowed::lateness(&crowd.messages, several),
    );
    let few = Times::of("few delayed jobs: lateness", few);
    let many = Times::of("many due within one minute: lateness", crowd.late);
    let seconds = |micros: usize| float(micros) / 1e6;
    let goal = CROWDED.max(BESIDE_RAW * seconds(allowed.p99));
    let numbers = vec![
        Number::of("few: p99 of lateness", seconds(few.p99), "s").at_most(QUIET),
        Number::of("many: p99 of lateness", seconds(many.p99), "s").at_most(goal),
        Number::of("started early", float(few_early + crowd.early), "jobs").at_most(0.0),
        Number::of(
            "enqueue of delayed jobs",
            float(options.jobs) / crowd.enqueue.wall.as_secs_f64(),
            "per second",
        ),
        Number::of("raw hops, one pair of queues", one, "per second"),
        Number::of(format!("raw hops, {PAIRS} pairs at once"), several, "per second"),
    ];
    Ok(Report {
        machine,
        settings: vec![
            ("jobs", options.jobs),
            ("jobs per parcel", options.pack),
            ("few jobs", FEW),
        ],
        pairs: Vec::new(),
        beside: Vec::new(),
        times: vec![
            few,
            many,
            allowed,
            Times::of("a job on time, before", crowd.before),
            Times::of("a job on time, while many are due", crowd.during),
        ],
        numbers,
        baselines: Vec::new(),
    })
}

/// Few jobs, spread over their delays.
async fn few(backend: &Arc<dyn Backend>, starts: &Starts) -> Result<(Vec<Duration>, usize)> {
    let client = Client::new(Arc::clone(backend));
    let now = Clock::system().now();
    let spread = LONGEST.saturating_sub(Duration::from_secs(1));
    let jobs = (0..FEW).map(|job| {
        // Multiples of the golden ratio lie evenly and in no order.
        let part = (float(job) * 0.618_033_988_75).fract();
        Late::at(now.plus(Duration::from_secs(1) + spread.mul_f64(part)))
    });
    accepted(&client.enqueue_many(jobs).await)?;
    starts.all(FEW).await?;
    Ok(starts.take())
}

struct Crowd {
    late: Vec<Duration>,
    early: usize,
    enqueue: Sample,
    /// What lay on the ladder.
    messages: Vec<Waits>,
    /// Round trips of jobs that are not delayed.
    before: Vec<Duration>,
    during: Vec<Duration>,
}

/// Many jobs, due evenly over one minute.
async fn crowd(options: &Options, backend: &Arc<dyn Backend>, starts: &Starts) -> Result<Crowd> {
    let client = Client::new(Arc::clone(backend));
    let before = probe::trips(&client, tokio::time::sleep(BEFORE)).await?;

    let count = options.jobs;
    let begun = Clock::system().now();
    let enqueueing = BEGIN + Duration::from_secs(u64::try_from(count / ENQUEUED)?);
    let first = begun.plus(enqueueing + MINUTE);
    let due = |job: usize| first.plus(MINUTE.mul_f64(float(job) / float(count)));
    let start = Start::now()?;
    let enqueued = client
        .enqueue_packed(options.pack, (0..count).map(|job| Late::at(due(job))))
        .await;
    let enqueue = start.end()?;
    accepted(&enqueued)?;
    ensure!(
        enqueue.wall < enqueueing,
        "enqueueing took {:?}: the machine is too busy for this",
        enqueue.wall
    );
    let from = |job: usize| enqueue.wall.mul_f64(float(job) / float(count));
    let messages = (0..count).step_by(options.pack).map(|job| Waits {
        from: from(job),
        due: due(job).since(begun),
    });
    let messages = messages.collect();

    sleep_until(first).await;
    let (end, ended) = oneshot::channel::<()>();
    let probe = probe::trips(&client, async {
        let _ = ended.await;
    });
    let all = async {
        starts.all(count).await?;
        drop(end);
        anyhow::Ok(())
    };
    let (during, ()) = tokio::try_join!(probe, all)?;
    let (late, early) = starts.take();
    Ok(Crowd {
        late,
        early,
        enqueue,
        messages,
        before,
        during,
    })
}

async fn sleep_until(time: Timestamp) {
    tokio::time::sleep(time.since(Clock::system().now())).await;
}
