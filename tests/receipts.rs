//! Receipts beside an outside clock: what a client waits for is what the receipt says, and what storing
//! took.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand::{Backend, Client, Context, Failure, Measure, Numbers, Receipt, Task, Timestamp, Worker};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(30);
/// Jobs of each kind: medians stand even when the machine is busy now and then.
const JOBS: usize = 150;
/// Jobs of each kind before those, which are not looked at: the first waits for its child to start.
const COLD: usize = 5;

macro_rules! task {
    ($name:ident, $text:literal) => {
        #[derive(Serialize, Deserialize)]
        struct $name(u64);

        impl Task for $name {
            const NAME: &'static str = $text;
            type Output = u64;
        }
    };
}
task!(Waits, "waits");
task!(Computes, "computes");
task!(Crunches, "crunches");

async fn waits(job: Waits, _: Context) -> Result<u64, Failure> {
    tokio::time::sleep(Duration::from_micros(job.0)).await;
    Ok(job.0)
}

fn spin(micros: u64) -> u64 {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    micros
}

fn worker(backend: Arc<dyn Backend>) -> Worker {
    Worker::new(backend)
        .on_async(waits)
        .on_thread(|job: Computes, _| Ok(spin(job.0)))
        .on_process(|job: Crunches, _| Ok(spin(job.0)))
}

/// A job as the client saw it, and its receipt, in microseconds.
struct Seen {
    outside: u64,
    receipt: Receipt,
}

impl Seen {
    /// Enqueues the job and waits for its result.
    async fn of(client: &Client, job: impl Task<Output = u64>) -> Self {
        let started = Instant::now();
        let handle = client.enqueue(job).await.unwrap();
        handle.wait(LONG).await.unwrap().unwrap();
        let outside = u64::try_from(started.elapsed().as_micros()).unwrap();
        let view = client.get(handle.id()).await.unwrap().unwrap();
        let receipt = view.entry.receipt.unwrap();
        Self { outside, receipt }
    }
}

fn median(values: impl Iterator<Item = i64>) -> i64 {
    let mut values: Vec<i64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_the_client_waits_for_what_receipts_and_settling_add_up_to() {
    if std::env::var_os("MILLHAND_CHILD").is_some() {
        // The process executor started this test again. Here `run` serves its jobs, and does not return.
        return worker(millhand::memory().unwrap())
            .run(std::future::pending())
            .await
            .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(worker(Arc::clone(&backend)).run(async { drop(stopped.await) }));

    let mut seen: [Vec<Seen>; 3] = Default::default();
    for n in 0..COLD + JOBS {
        let jobs = [
            Seen::of(&client, Waits(3_000)).await,
            Seen::of(&client, Computes(500)).await,
            Seen::of(&client, Crunches(500)).await,
        ];
        if n >= COLD {
            seen.iter_mut().zip(jobs).for_each(|(seen, job)| seen.push(job));
        }
    }
    drop(stop);
    worker.await.unwrap().unwrap();

    let now = backend.now();
    let tallies = client.admin().stats(Timestamp::default(), now).await.unwrap();
    for (name, seen) in [Waits::NAME, Computes::NAME, Crunches::NAME].into_iter().zip(&seen) {
        let mut numbers = Numbers::default();
        for tally in tallies.iter().filter(|tally| tally.task.as_str() == name) {
            numbers.merge(&tally.numbers);
        }
        let profile = numbers.profile().unwrap();
        assert_eq!(profile.runs(), (COLD + JOBS) as u64);
        let settle = profile.measure(Measure::Settle).quantile(0.5).unwrap();
        let settle = i64::try_from(settle.as_micros()).unwrap();
        let outside = median(seen.iter().map(|job| signed(job.outside)));
        let rest = median(seen.iter().map(|job| signed(job.outside) - signed(job.receipt.whole()))) - settle;
        let phases: Vec<String> = (0..8)
            .map(|phase| {
                let micros = median(seen.iter().map(|job| signed(job.receipt.phases()[phase].1)));
                format!("{} {micros}", seen[0].receipt.phases()[phase].0)
            })
            .collect();
        let said = format!(
            "{name}: {outside} µs outside; {}, settle {settle}; {rest} are left",
            phases.join(", ")
        );
        println!("{said}");
        // Less than nothing would be left if two phases held the same time.
        assert!(rest.abs() <= outside / 20 + 1_000, "{said}");
    }
}
