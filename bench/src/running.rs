//! A worker under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use millhand_broker::Backend;
use millhand_client::Client;
use millhand_proto::QueueName;
use millhand_worker::{Slots, Worker, WorkerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::noop::Noop;

/// Async slots of the worker.
pub(crate) const SLOTS: usize = 100;

/// A worker that runs jobs which do nothing.
pub(crate) struct Running {
    ran: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    worker: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    pub(crate) fn start(backend: &Arc<dyn Backend>) -> Self {
        Self::with(backend, |worker| worker)
    }

    /// One that can do more.
    pub(crate) fn with(backend: &Arc<dyn Backend>, more: impl FnOnce(Worker) -> Worker) -> Self {
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ran);
        let (stop, stopped) = oneshot::channel();
        let slots = Slots {
            asyncs: SLOTS,
            ..Slots::default()
        };
        let worker = Worker::new(Arc::clone(backend))
            .slots(slots)
            .on_async(move |job: Noop, _| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(job.data.len()))
            });
        let worker = more(worker).run(async {
            let _ = stopped.await;
        });
        Self {
            ran,
            stop,
            worker: tokio::spawn(worker),
        }
    }

    /// One that has run a job and waits for the next, and the client that had a result.
    pub(crate) async fn idle(backend: &Arc<dyn Backend>) -> Result<(Self, Client)> {
        let running = Self::start(backend);
        let client = Client::new(Arc::clone(backend));
        let handle = client.enqueue(Noop::number(0)).await?;
        ensure!(handle.wait(Duration::from_secs(30)).await?.is_ok(), "a job failed");
        sleep(Duration::from_secs(2)).await;
        Ok((running, client))
    }

    /// Waits until so many jobs ran and all are remembered.
    pub(crate) async fn ended(&self, backend: &Arc<dyn Backend>, jobs: usize) -> Result<()> {
        while self.ran.load(Ordering::Relaxed) < jobs {
            ensure!(!self.worker.is_finished(), "the worker ended by itself");
            sleep(Duration::from_millis(1)).await;
        }
        // When nothing is left in the queue, all are remembered.
        while left(backend).await? > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Stops it and tells how many runs it made.
    pub(crate) async fn stop(self) -> Result<usize> {
        let _ = self.stop.send(());
        self.worker.await??;
        Ok(self.ran.load(Ordering::Relaxed))
    }
}

/// Parcels in the default queue, and in hands.
pub(crate) async fn left(backend: &Arc<dyn Backend>) -> Result<usize> {
    let left = backend.pending(vec![QueueName::new("default")?]).await?;
    Ok(left.ready + left.held)
}
