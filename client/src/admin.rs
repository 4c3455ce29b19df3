//! What operators do.

use std::sync::Arc;

use millhand_broker::{Act, Acted, Backend, Control, Error, JobFilter, JobPage, QueueView, Rebuilt, WorkerView};
use millhand_proto::{JobId, QueueName, Tally, Timestamp};

/// Jobs that one call of a purge empties.
const PURGE_BATCH: usize = 1000;

/// What operators do with jobs and queues. Every call takes a batch and answers one result each,
/// in order.
///
/// ```no_run
/// # async fn example(client: millhand_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use millhand_broker::JobFilter;
/// use millhand_proto::State;
///
/// let admin = client.admin();
/// let dead = admin.list(JobFilter { states: vec![State::Dead], limit: 100, ..JobFilter::default() }).await?;
/// admin.retry(dead.jobs.iter().map(|job| job.id)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    backend: Arc<dyn Backend>,
}

impl Admin {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    async fn act(&self, acts: Vec<Act>) -> Result<Vec<Acted>, Error> {
        self.backend.act(acts).await
    }

    /// Tries dead jobs again.
    ///
    /// # Errors
    /// When the back end fails; some may have been done.
    pub async fn retry(&self, ids: impl IntoIterator<Item = JobId>) -> Result<Vec<Acted>, Error> {
        self.act(ids.into_iter().map(Act::Retry).collect()).await
    }

    /// Makes scheduled jobs due now.
    ///
    /// # Errors
    /// When the back end fails; some may have been done.
    pub async fn run_now(&self, ids: impl IntoIterator<Item = JobId>) -> Result<Vec<Acted>, Error> {
        self.act(ids.into_iter().map(Act::RunNow).collect()).await
    }

    /// Remembers dead jobs again whose records the store lost, from their backup in the queue.
    /// `progress` hears how many copies were looked at and answers whether to go on. Where queue and
    /// store are one, there is no backup and nothing to do.
    ///
    /// # Errors
    /// When the back end fails; what was looked at is done.
    pub async fn rebuild_dead(
        &self,
        mut progress: impl FnMut(usize) -> bool + Send + 'static,
    ) -> Result<Rebuilt, Error> {
        self.backend.rebuild(&mut progress).await
    }

    /// Forgets jobs that ended.
    ///
    /// # Errors
    /// When the back end fails; some may have been done.
    pub async fn drop(&self, ids: impl IntoIterator<Item = JobId>) -> Result<Vec<Acted>, Error> {
        self.act(ids.into_iter().map(Act::Drop).collect()).await
    }

    /// Cancels jobs: those that wait will not start, those that run are asked to stop.
    ///
    /// # Errors
    /// When the back end fails; some may have been done.
    pub async fn cancel(&self, ids: impl IntoIterator<Item = JobId>) -> Result<Vec<Acted>, Error> {
        self.act(ids.into_iter().map(Act::Cancel).collect()).await
    }

    /// Pauses a queue: nothing is delivered from it. Answers whether it was not paused before.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn pause(&self, queue: QueueName) -> Result<bool, Error> {
        Ok(self.backend.control(Control::Pause(queue)).await?.changed)
    }

    /// Resumes a queue. Answers whether it was paused.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn resume(&self, queue: QueueName) -> Result<bool, Error> {
        Ok(self.backend.control(Control::Resume(queue)).await?.changed)
    }

    /// Cancels all that waits in a queue and is due, in batches; `progress` hears the number so far
    /// and answers whether to go on. Answers how many were purged, by what the back end counts.
    ///
    /// # Errors
    /// When the back end fails; what `progress` heard of is purged.
    pub async fn purge(&self, queue: QueueName, mut progress: impl FnMut(usize) -> bool) -> Result<usize, Error> {
        let mut purged = 0;
        loop {
            let done = self.backend.control(Control::Purge(queue.clone(), PURGE_BATCH)).await?;
            purged += done.jobs;
            if !progress(purged) || !done.more {
                return Ok(purged);
            }
        }
    }

    /// Lists jobs, newest first.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.backend.jobs(filter).await
    }

    /// Lists queues, by name.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn queues(&self) -> Result<Vec<QueueView>, Error> {
        self.backend.queues().await
    }

    /// Lists workers.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        self.backend.workers().await
    }

    /// The numbers of the minutes that this time touches, merged for each minute, queue and task:
    /// how many jobs ended how, and how long they waited and ran.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn stats(&self, since: Timestamp, until: Timestamp) -> Result<Vec<Tally>, Error> {
        self.backend.stats(since, until).await
    }
}
