//! What Millhand does with jobs that do nothing, whatever the back end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millhand_broker::Backend;
use millhand_client::{Client, Enqueued};

use crate::noop::{ARGUMENT, Noop};
use crate::running::Running;
use crate::stopwatch::{Sample, Start};

/// Round trips that start things and do not count.
const FIRST: usize = 50;

/// Enqueues jobs, `pack` to a parcel.
pub(crate) async fn enqueue(client: &Client, pack: usize, count: usize) -> Result<Sample> {
    // Made before the clock starts: what is measured is the way into the queue.
    let jobs = Noop::many(count);
    let start = Start::now()?;
    let enqueued = client.enqueue_packed(pack, jobs).await;
    let sample = start.end()?;
    accepted(&enqueued)?;
    Ok(sample)
}

/// Checks that all were accepted.
pub(crate) fn accepted(enqueued: &[Enqueued]) -> Result<()> {
    let refused = enqueued.iter().find(|e| !matches!(e, Enqueued::Accepted(_)));
    ensure!(refused.is_none(), "not accepted: {refused:?}");
    Ok(())
}

/// Runs the jobs that are in the queue, until all have ended and are remembered.
pub(crate) async fn drain(backend: &Arc<dyn Backend>, count: usize) -> Result<Sample> {
    let start = Start::now()?;
    let worker = Running::start(backend);
    worker.ended(backend, count).await?;
    let sample = start.end()?;
    let ran = worker.stop().await?;
    ensure!(ran == count, "{ran} runs of {count} jobs");
    Ok(sample)
}

/// Round trips one at a time: until the job is durable, and until its result is there.
pub(crate) async fn trips(backend: &Arc<dyn Backend>, count: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let client = Client::new(Arc::clone(backend));
    let worker = Running::start(backend);
    let (mut enqueues, mut wholes) = (Vec::new(), Vec::new());
    for job in 0..count + FIRST {
        let started = Instant::now();
        let handle = client.enqueue(Noop::number(job)).await?;
        let enqueued = started.elapsed();
        let result = handle.wait(Duration::from_secs(30)).await?;
        let whole = started.elapsed();
        ensure!(matches!(result, Ok(ARGUMENT)), "a wrong result");
        if job >= FIRST {
            enqueues.push(enqueued);
            wholes.push(whole);
        }
    }
    worker.stop().await?;
    Ok((enqueues, wholes))
}
