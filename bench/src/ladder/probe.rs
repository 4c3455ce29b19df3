//! Jobs that are not delayed: how long they take while others wait and become due.

use std::time::{Duration, Instant};

use anyhow::Result;
use millhand_client::Client;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::noop::Noop;

const EVERY: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(120);

/// Enqueues one after another, whether the last has ended or not, until `end` comes; from enqueue to
/// result.
pub(super) async fn trips(client: &Client, end: impl Future<Output = ()>) -> Result<Vec<Duration>> {
    let mut end = std::pin::pin!(end);
    let mut ticks = interval(EVERY);
    let mut under_way = JoinSet::new();
    for job in 0.. {
        tokio::select! {
            () = end.as_mut() => break,
            _ = ticks.tick() => {}
        }
        let client = client.clone();
        under_way.spawn(async move {
            let started = Instant::now();
            let handle = client.enqueue(Noop::number(job)).await?;
            handle
                .wait(LIMIT)
                .await?
                .map_err(|failure| anyhow::anyhow!("{failure}"))?;
            anyhow::Ok(started.elapsed())
        });
    }
    under_way.join_all().await.into_iter().collect()
}
