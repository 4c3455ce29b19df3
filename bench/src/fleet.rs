//! RabbitMQ and Redis: enqueue, drain, round trip, idling, memory.

mod raw;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use millhand_broker::Backend;
use millhand_client::Client;

use self::raw::{ACKS, Raw};
use self::store::Commands;
use crate::figures::{Baseline, Number, Pairs, Spread, Times, float};
use crate::machine::Machine;
use crate::millhand;
use crate::noop::{ARGUMENT, Noop, bodies};
use crate::options::Options;
use crate::publishers::WINDOW;
use crate::report::Report;
use crate::running::Running;
use crate::servers::Servers;
use crate::stopwatch::{Sample, Start};

/// The goals.
const ENQUEUE: f64 = 0.4;
const DRAIN: f64 = 0.25;
const TRIP: f64 = 2.0;
const COMMANDS: f64 = 2.0;
/// What the raw loops do on a quiet machine with two cores, all servers on it: messages per second,
/// and seconds of a round trip.
const QUIET_ENQUEUE: f64 = 63_000.0;
const QUIET_DRAIN: f64 = 92_000.0;
const QUIET_TRIP: f64 = 0.000_95;

/// Measures all of it.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let servers = Servers::of(options.urls.as_ref()).await?;
    let machine = Machine::look(servers.versions().await?, &options.dir);
    let backend = servers.backend().await?;
    let mut numbers = Vec::new();
    // First, while Redis is empty; what runs here has run once when the rounds begin.
    eprintln!("memory of {} jobs", options.jobs);
    for pack in [1, options.pack] {
        numbers.extend(memory(&servers, &backend, options.jobs, pack).await?);
    }
    let mut raw = Raw::open(&servers).await?;
    let rounds = rounds(options, &backend, &mut raw).await?;
    let of = |what: &str, pack: usize, goal, pairs: &[(Sample, Sample)]| {
        let what = if pack == 1 {
            what.to_owned()
        } else {
            format!("{what}, parcels of {pack}")
        };
        Pairs::of(what, options.jobs, goal, pairs)
    };
    let pairs = vec![
        of(
            "enqueue",
            1,
            Some(ENQUEUE),
            &pairs(&rounds, |r| (r.raw.enqueue, r.single.enqueue)),
        ),
        of(
            "drain",
            1,
            Some(DRAIN),
            &pairs(&rounds, |r| (r.raw.drain, r.single.drain)),
        ),
        of(
            "enqueue",
            options.pack,
            None,
            &pairs(&rounds, |r| (r.raw.enqueue, r.packed.enqueue)),
        ),
        of(
            "drain",
            options.pack,
            None,
            &pairs(&rounds, |r| (r.raw.drain, r.packed.drain)),
        ),
    ];
    eprintln!("{} round trips", options.trips);
    let (times, Spread { median, min, max }) = trips(options, &servers, &backend, &mut raw).await?;
    let ratio = format!("round trip: p50 of Millhand divided by raw ({min:.2} to {max:.2})");
    numbers.insert(0, Number::of(ratio, median, "").at_most(TRIP));
    eprintln!("{:?} of idling", options.idle);
    numbers.extend(idle(options, &servers, &backend).await?);
    raw.close().await?;
    Ok(Report {
        machine,
        settings: vec![
            ("jobs", options.jobs),
            ("rounds", options.rounds),
            ("bytes of arguments", ARGUMENT),
            ("raw publishes in a window", WINDOW),
            ("raw acknowledgements at once", ACKS),
        ],
        baselines: vec![
            Baseline::of("raw enqueue", pairs[0].raw.median, QUIET_ENQUEUE),
            Baseline::of("raw drain", pairs[1].raw.median, QUIET_DRAIN),
            Baseline::of("raw round trip", 1e6 / float(times[0].p50), 1.0 / QUIET_TRIP),
        ],
        pairs,
        beside: Vec::new(),
        times: times.into(),
        numbers,
    })
}

/// One way through, of raw or of Millhand.
struct Way {
    enqueue: Sample,
    drain: Sample,
}

struct Round {
    raw: Way,
    single: Way,
    packed: Way,
}

fn pairs(rounds: &[Round], of: impl Fn(&Round) -> (Sample, Sample)) -> Vec<(Sample, Sample)> {
    rounds.iter().map(of).collect()
}

/// Raw and Millhand in turn: enqueue, then drain.
async fn rounds(options: &Options, backend: &Arc<dyn Backend>, raw: &mut Raw) -> Result<Vec<Round>> {
    let client = Client::new(Arc::clone(backend));
    let count = options.jobs;
    let bodies = bodies(count);
    let mut rounds = Vec::new();
    // The first round warms up and does not count.
    for round in 0..=options.rounds {
        let start = Start::now()?;
        raw.enqueue(&bodies).await?;
        let raw_enqueue = start.end()?;
        let enqueue = millhand::enqueue(&client, 1, count).await?;
        let start = Start::now()?;
        raw.drain(count).await?;
        let raw_drain = start.end()?;
        let drain = millhand::drain(backend, count).await?;
        let packed = Way {
            enqueue: millhand::enqueue(&client, options.pack, count).await?,
            drain: millhand::drain(backend, count).await?,
        };
        if round == 0 {
            continue;
        }
        let seconds = |sample: &Sample| sample.wall.as_secs_f64();
        eprintln!(
            "round {round} of {}: enqueue {:.3} s and {:.3} s, drain {:.3} s and {:.3} s, in parcels {:.3} s and {:.3} s",
            options.rounds,
            seconds(&raw_enqueue),
            seconds(&enqueue),
            seconds(&raw_drain),
            seconds(&drain),
            seconds(&packed.enqueue),
            seconds(&packed.drain)
        );
        rounds.push(Round {
            raw: Way {
                enqueue: raw_enqueue,
                drain: raw_drain,
            },
            single: Way { enqueue, drain },
            packed,
        });
    }
    Ok(rounds)
}

/// From enqueue to result, one job at a time, raw and Millhand in turn; and the ratio of their medians.
async fn trips(
    options: &Options,
    servers: &Servers,
    backend: &Arc<dyn Backend>,
    raw: &mut Raw,
) -> Result<([Times; 3], Spread)> {
    let bodies = bodies(options.trips.div_ceil(options.rounds));
    let (mut raws, mut enqueues, mut wholes, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let theirs = raw.trips(servers, &bodies).await?;
        let (enqueue, whole) = millhand::trips(backend, bodies.len()).await?;
        let median = |times: &[Duration]| float(Times::of("", times.to_vec()).p50);
        ratios.push(median(&whole) / median(&theirs));
        raws.extend(theirs);
        enqueues.extend(enqueue);
        wholes.extend(whole);
    }
    let times = [
        Times::of("raw: publish, confirm, consume, SET and LPUSH, BLPOP", raws),
        Times::of("millhand: enqueue", enqueues),
        Times::of("millhand: enqueue to result", wholes),
    ];
    Ok((times, Spread::of(ratios)))
}

/// A worker that waits for work, and a client beside it.
async fn idle(options: &Options, servers: &Servers, backend: &Arc<dyn Backend>) -> Result<Vec<Number>> {
    let mut redis = servers.redis().await?;
    let (worker, _client) = Running::idle(backend).await?;
    let before = Commands::count(&mut redis).await?;
    let start = Start::now()?;
    tokio::time::sleep(options.idle).await;
    let sample = start.end()?;
    let calls = Commands::count(&mut redis).await?.since(&before);
    worker.stop().await?;
    let seconds = sample.wall.as_secs_f64();
    let rate = |calls: usize| float(calls) / seconds;
    let all = calls.iter().map(|(_, calls)| calls).sum();
    let each = calls
        .iter()
        .map(|(name, calls)| Number::of(format!("  of these {name}"), rate(*calls), "per second"));
    Ok([
        Number::idle(&sample),
        Number::of("idle worker: Redis commands, in scripts too", rate(all), "per second").at_most(COMMANDS),
    ]
    .into_iter()
    .chain(each)
    .collect())
}

/// What ended jobs take in Redis, with all that they are found by.
async fn memory(servers: &Servers, backend: &Arc<dyn Backend>, jobs: usize, pack: usize) -> Result<[Number; 2]> {
    let mut redis = servers.redis().await?;
    let before = store::used(&mut redis).await?;
    let client = Client::new(Arc::clone(backend));
    let enqueued = client.enqueue_packed(pack, Noop::many(jobs)).await;
    millhand::accepted(&enqueued)?;
    millhand::drain(backend, jobs).await?;
    client.close().await;
    // Buffers of connections are given back after a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes = float(store::used(&mut redis).await?.saturating_sub(before)) / float(jobs);
    let record = float(store::record(&mut redis, enqueued[0].id()).await?);
    Ok([
        Number::of(format!("Redis: per finished job in parcels of {pack}"), bytes, "bytes"),
        Number::of(format!("Redis: a record of {pack}, with its key"), record, "bytes"),
    ])
}
