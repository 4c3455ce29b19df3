//! Many jobs, one at a time or many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use millhand_proto::{Payload, Task};
use millhand_worker::Bare;
use tokio::task::JoinSet;

use super::tasks::ran;
use crate::figures::float;

/// Jobs under way at once.
pub(super) const AT_ONCE: usize = 64;

/// The time of each of so many jobs, one at a time.
pub(super) async fn one_by_one<T: Task>(bare: &Bare, args: &Payload, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        ran::<T>(bare, args).await?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// What the jobs give, [`AT_ONCE`] at once, and how long all of them took.
pub(super) async fn at_once<T: Task<Output: Send>>(
    bare: &Arc<Bare>,
    args: &Payload,
    count: usize,
) -> Result<(Vec<T::Output>, Duration)> {
    let started = Instant::now();
    let mut lines = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (bare, args) = (Arc::clone(bare), args.clone());
        lines.spawn(async move {
            let mut outputs = Vec::with_capacity(count / AT_ONCE);
            for _ in 0..count / AT_ONCE {
                outputs.push(ran::<T>(&bare, &args).await?);
            }
            anyhow::Ok(outputs)
        });
    }
    let mut outputs = Vec::with_capacity(count);
    for line in lines.join_all().await {
        outputs.extend(line?);
    }
    let took = started.elapsed();
    Ok((outputs, took))
}

/// Microseconds for each of so many in this time.
pub(super) fn each(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e6 / float(count)
}
