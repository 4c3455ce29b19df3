//! Receipts beside an outside clock: what a client waits for is what the receipt says, and what storing
//! took.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand::{Client, Context, Failure, Measure, Numbers, Receipt, Task, Timestamp, Worker};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(30);
/// Jobs of each kind: medians stand even when the machine is busy now and then.
const JOBS: usize = 150;

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

async fn waits(job: Waits, _: Context) -> Result<u64, Failure> {
    tokio::time::sleep(Duration::from_micros(job.0)).await;
    Ok(job.0)
}

#[allow(clippy::needless_pass_by_value)]
fn computes(job: Computes, _: Context) -> Result<u64, Failure> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(job.0) {
        std::hint::spin_loop();
    }
    Ok(job.0)
}

/// A job as the client saw it, and its receipt, in microseconds.
struct Seen {
    outside: u64,
    receipt: Receipt,
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
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let worker = Worker::new(Arc::clone(&backend)).on_async(waits).on_thread(computes);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));

    let mut seen: [Vec<Seen>; 2] = Default::default();
    for n in 0..JOBS * 2 {
        let started = Instant::now();
        let id = if n % 2 == 0 {
            let handle = client.enqueue(Waits(3_000)).await.unwrap();
            handle.wait(LONG).await.unwrap().unwrap();
            handle.id()
        } else {
            let handle = client.enqueue(Computes(500)).await.unwrap();
            handle.wait(LONG).await.unwrap().unwrap();
            handle.id()
        };
        let outside = u64::try_from(started.elapsed().as_micros()).unwrap();
        let view = client.get(id).await.unwrap().unwrap();
        let receipt = view.entry.receipt.unwrap();
        seen[n % 2].push(Seen { outside, receipt });
    }
    drop(stop);
    worker.await.unwrap().unwrap();

    let now = backend.now();
    let tallies = client.admin().stats(Timestamp::default(), now).await.unwrap();
    for (name, seen) in [Waits::NAME, Computes::NAME].into_iter().zip(&seen) {
        let mut numbers = Numbers::default();
        for tally in tallies.iter().filter(|tally| tally.task.as_str() == name) {
            numbers.merge(&tally.numbers);
        }
        let profile = numbers.profile().unwrap();
        assert_eq!(profile.runs(), JOBS as u64);
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
