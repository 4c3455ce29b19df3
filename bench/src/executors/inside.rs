//! What threads and futures cost without an executor around them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::rates::AT_ONCE;

/// A thread that answers: where to is what it is sent.
pub(super) struct BareThread {
    work: mpsc::Sender<oneshot::Sender<()>>,
}

impl BareThread {
    pub(super) fn start() -> Self {
        let (work, queue) = mpsc::channel::<oneshot::Sender<()>>();
        std::thread::spawn(move || {
            for reply in queue {
                let _ = reply.send(());
            }
        });
        Self { work }
    }

    /// To the thread and back, one at a time.
    pub(super) async fn times(&self, count: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let started = Instant::now();
            let (reply, answer) = oneshot::channel();
            if self.work.send(reply).is_err() {
                bail!("the bare thread ended");
            }
            answer.await?;
            times.push(started.elapsed());
        }
        Ok(times)
    }
}

/// Futures that do nothing, spawned on another runtime and joined, [`AT_ONCE`] at once; how long all took.
pub(super) async fn spawned(runtime: &Runtime, count: usize) -> Result<Duration> {
    let started = Instant::now();
    let mut lines = JoinSet::new();
    for _ in 0..AT_ONCE {
        let handle = runtime.handle().clone();
        lines.spawn(async move {
            for _ in 0..count / AT_ONCE {
                handle.spawn(std::future::ready(())).await?;
            }
            anyhow::Ok(())
        });
    }
    for line in lines.join_all().await {
        line?;
    }
    Ok(started.elapsed())
}
