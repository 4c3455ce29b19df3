//! The client: one way in for producers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::maybe_done;
use millhand_broker::{Act, Acted, Backend, BackendUrl, BoxFuture, Error, JobView, Pushed};
use millhand_proto::{AttemptLog, JobId, Mailbox, Progress, State, Task, Timestamp};

use crate::admin::Admin;
use crate::error::{ConnectError, EnqueueError, WaitError};
use crate::handle::Handle;
use crate::job::{Job, RawJob};
use crate::pack::Packer;
use crate::waits::Waits;

/// What became of one of several jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Enqueued {
    /// It is durable: it will run.
    Accepted(JobId),
    /// It is not there and never will be.
    Rejected {
        /// The id that it would have had.
        id: JobId,
        /// Why.
        why: String,
    },
    /// It may or may not be there: enqueue it again with this id ([`Job::job_id`]).
    Unknown {
        /// The job.
        id: JobId,
        /// Why.
        why: String,
    },
}

impl Enqueued {
    /// The job's id, whatever became of it.
    #[must_use]
    pub fn id(&self) -> JobId {
        match self {
            Self::Accepted(id) | Self::Rejected { id, .. } | Self::Unknown { id, .. } => *id,
        }
    }
}

/// Enqueues jobs and waits for them. Cheap to clone; clones share one mailbox.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backend: Arc<dyn Backend>,
    mailbox: Mailbox,
    producer: Option<String>,
    waits: Waits,
}

/// How long [`Client::close`] waits at the most.
const CLOSE: Duration = Duration::from_secs(1);

type Pushing<'c> = BoxFuture<'c, Vec<(Pushed, Vec<usize>)>>;

/// Writes the answers for parcels to the places of their jobs.
fn answer(answers: &mut [Enqueued], parcels: Option<Vec<(Pushed, Vec<usize>)>>) {
    for (pushed, places) in parcels.into_iter().flatten() {
        for place in places {
            let id = answers[place].id();
            answers[place] = match &pushed {
                Pushed::Accepted => Enqueued::Accepted(id),
                Pushed::Rejected(why) => Enqueued::Rejected { id, why: why.clone() },
                Pushed::Unknown(why) => Enqueued::Unknown { id, why: why.clone() },
            };
        }
    }
}

impl Client {
    /// Opens the back end that `url` names: `sqlite:FILE` or `memory:`.
    ///
    /// # Errors
    /// When the URL names no back end, or it cannot be opened.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let url: BackendUrl = url.parse()?;
        Ok(Self::new(millhand_broker::open(&url)?))
    }

    /// A client of a fleet: RabbitMQ carries its jobs, Redis remembers them. A name in `?ns=` of the
    /// URLs keeps fleets on the same servers apart. The servers are connected to at the first use,
    /// over TLS where the URLs begin with `amqps://` and `rediss://` (`?ca=FILE`, `?cert=FILE&key=FILE`).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), millhand_client::ConnectError> {
    /// let client = millhand_client::Client::fleet("amqp://localhost", "redis://localhost").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a URL cannot be used, or the two do not fit together.
    pub async fn fleet(broker: &str, store: &str) -> Result<Self, ConnectError> {
        let url = BackendUrl::of(broker, Some(store))?;
        Ok(Self::new(millhand_broker::open(&url)?))
    }

    /// A client of a back end that is open.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self::build(backend, None)
    }

    /// The same, with a name by which its jobs say who enqueued them.
    #[must_use]
    pub fn named(backend: Arc<dyn Backend>, producer: impl Into<String>) -> Self {
        Self::build(backend, Some(producer.into()))
    }

    fn build(backend: Arc<dyn Backend>, producer: Option<String>) -> Self {
        let mailbox = Mailbox::from_random(*uuid::Uuid::new_v4().as_bytes());
        let waits = Waits::new(backend.clone(), mailbox);
        Self {
            shared: Arc::new(Shared {
                backend,
                mailbox,
                producer,
                waits,
            }),
        }
    }

    /// The back end.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// What operators do.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.shared.backend.clone())
    }

    /// Enqueues one job. It is durable when this returns.
    ///
    /// # Errors
    /// When the job is not valid, was refused, or nobody can say.
    pub async fn enqueue<T: Task>(&self, job: impl Into<Job<T>>) -> Result<Handle<T>, EnqueueError> {
        let job: Job<T> = job.into();
        // The mailbox in a job that is there already is another's: only a new id is surely ours.
        let ours = job.given_id().is_none();
        let since = self.shared.backend.now();
        let id = self.enqueue_raw(job.into_raw()?).await?;
        Ok(Handle::new(self.clone(), id, ours.then_some(since)))
    }

    /// Enqueues one job whose task is known by name only.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_raw(&self, job: RawJob) -> Result<JobId, EnqueueError> {
        let mut packer = self.packer(1);
        let id = packer.add(0, job).map_err(|(_, invalid)| invalid)?;
        let parcels = packer.finish().into_iter().map(|p| p.parcel).collect();
        match self.shared.backend.push(parcels).await.pop() {
            Some(Pushed::Accepted) => Ok(id),
            Some(Pushed::Rejected(why)) => Err(EnqueueError::Rejected { id, why }),
            Some(Pushed::Unknown(why)) => Err(EnqueueError::Unknown { id, why }),
            None => Err(EnqueueError::Unknown {
                id,
                why: "the back end gave no answer".into(),
            }),
        }
    }

    /// Enqueues many jobs, each in a parcel of its own; one answer per job, in order.
    pub async fn enqueue_many<T: Task, J: Into<Job<T>>>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<Enqueued> {
        self.enqueue_packed(1, jobs).await
    }

    /// Enqueues many jobs, up to `pack` of the same queue, class and due second in one parcel,
    /// which costs one message and one record. Jobs with a given id travel alone. One answer per
    /// job, in order; what is `Unknown` may be enqueued again with its id.
    ///
    /// ```no_run
    /// # use millhand_client::{Client, Enqueued};
    /// # use millhand_proto::Task;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Resize { image: u64 }
    /// # impl Task for Resize { const NAME: &'static str = "resize"; type Output = String; }
    /// # async fn example(client: Client) {
    /// for answer in client.enqueue_packed(64, (0..1_000).map(|image| Resize { image })).await {
    ///     if let Enqueued::Rejected { id, why } = answer {
    ///         eprintln!("{id}: {why}");
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn enqueue_packed<T: Task, J: Into<Job<T>>>(
        &self,
        pack: usize,
        jobs: impl IntoIterator<Item = J>,
    ) -> Vec<Enqueued> {
        let jobs = jobs.into_iter().map(|job| {
            let job: Job<T> = job.into();
            let id = job.given_id();
            job.into_raw().map_err(|invalid| (id, invalid.to_string()))
        });
        self.enqueue_all(pack, jobs).await
    }

    /// The same for jobs whose tasks are known by name only.
    pub async fn enqueue_raw_packed(&self, pack: usize, jobs: impl IntoIterator<Item = RawJob>) -> Vec<Enqueued> {
        self.enqueue_all(pack, jobs.into_iter().map(Ok)).await
    }

    async fn enqueue_all(
        &self,
        pack: usize,
        jobs: impl Iterator<Item = Result<RawJob, (Option<JobId>, String)>>,
    ) -> Vec<Enqueued> {
        let mut answers = Vec::with_capacity(jobs.size_hint().0);
        let mut packer = self.packer(pack);
        let mut under_way = Box::pin(maybe_done(self.push(self.packer(pack))));
        for (place, job) in jobs.enumerate() {
            // What is added here stands until the push has an answer.
            let added = match job {
                Ok(job) => packer
                    .add(place, job)
                    .map_err(|(id, invalid)| (id, invalid.to_string())),
                Err((id, why)) => Err((id.unwrap_or_else(|| self.mint()), why)),
            };
            answers.push(match added {
                Ok(id) => Enqueued::Unknown { id, why: String::new() },
                Err((id, why)) => Enqueued::Rejected { id, why },
            });
            if packer.is_full() {
                let full = std::mem::replace(&mut packer, self.packer(pack));
                // Looked at once, it is under way, behind the one before; the next is packed meanwhile.
                let mut next = Box::pin(maybe_done(self.push(full)));
                let _ = next.as_mut().now_or_never();
                under_way.as_mut().await;
                answer(&mut answers, under_way.as_mut().take_output());
                under_way = next;
            }
        }
        under_way.as_mut().await;
        answer(&mut answers, under_way.as_mut().take_output());
        answer(&mut answers, Some(self.push(packer).await));
        for answer in &mut answers {
            if let Enqueued::Unknown { why, .. } = answer
                && why.is_empty()
            {
                "the back end gave no answer".clone_into(why);
            }
        }
        answers
    }

    /// Pushes what is packed; answers for each parcel, with the places of its jobs.
    fn push(&self, packer: Packer) -> Pushing<'_> {
        let (parcels, places): (Vec<_>, Vec<_>) = packer.finish().into_iter().map(|p| (p.parcel, p.places)).unzip();
        Box::pin(async move {
            if parcels.is_empty() {
                return Vec::new();
            }
            self.shared
                .backend
                .push(parcels)
                .await
                .into_iter()
                .zip(places)
                .collect()
        })
    }

    fn packer(&self, pack: usize) -> Packer {
        let shared = &self.shared;
        Packer::new(pack, shared.backend.now(), shared.mailbox, shared.producer.clone())
    }

    /// A new id, for a job that is to be named before it is enqueued (with [`RawJob::job_id`]).
    #[must_use]
    pub fn mint(&self) -> JobId {
        JobId::minted(self.shared.backend.now(), crate::pack::random(), 0)
    }

    /// Waits up to a second for what is written behind an enqueue: the sight of accepted jobs in lists.
    /// The jobs themselves are durable before; a program that ends may leave this out.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE, self.shared.backend.flush()).await;
    }

    /// A handle to a job that was enqueued earlier, perhaps by another process.
    #[must_use]
    pub fn handle<T: Task>(&self, id: JobId) -> Handle<T> {
        Handle::new(self.clone(), id, None)
    }

    /// All that is known of a job.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn get(&self, id: JobId) -> Result<Option<JobView>, Error> {
        Ok(self.shared.backend.read(vec![id]).await?.pop().flatten())
    }

    /// What the newest attempt of a job that ended printed and said; `None` when it was silent.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn log(&self, id: JobId) -> Result<Option<AttemptLog>, Error> {
        self.shared.backend.log(id).await
    }

    /// How far a running job says it is, and when its worker told of it: at most some seconds ago.
    /// `None` when it says nothing, and when it does not run.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn progress(&self, job: &JobView) -> Result<Option<(Progress, Timestamp)>, Error> {
        if job.entry.state != State::Running {
            return Ok(None);
        }
        let workers = self.shared.backend.workers().await?;
        let told = workers.iter().filter(|view| Some(view.beat.worker) == job.entry.owner);
        let said = told.flat_map(|view| {
            view.beat
                .progress
                .iter()
                .map(|(id, progress)| (*id, *progress, view.at))
        });
        let mut of_job = said.filter(|(id, ..)| *id == job.id);
        Ok(of_job.next().map(|(_, progress, at)| (progress, at)))
    }

    /// Cancels a job: one that waits will not start, one that runs is asked to stop.
    ///
    /// # Errors
    /// When the back end fails.
    pub async fn cancel(&self, id: JobId) -> Result<Acted, Error> {
        Ok(self
            .shared
            .backend
            .act(vec![Act::Cancel(id)])
            .await?
            .pop()
            .unwrap_or(Acted::Unknown))
    }

    /// Waits until a job has ended, however it did, and answers all that is known of it.
    ///
    /// Waiting costs nothing while nothing happens: the end is pushed. The first wait of a client
    /// spawns one task on the tokio runtime that it is called on, which must live (with its time
    /// driver) as long as anybody waits.
    ///
    /// # Errors
    /// When the time is up, or nothing is known of the job (any more).
    pub async fn wait_raw(&self, id: JobId, timeout: Duration) -> Result<JobView, WaitError> {
        self.wait_known(id, timeout, None).await
    }

    #[cfg(test)]
    pub(crate) fn waits(&self) -> &Waits {
        &self.shared.waits
    }

    /// `known`: when this client enqueued the job under a new id.
    pub(crate) async fn wait_known(
        &self,
        id: JobId,
        timeout: Duration,
        known: Option<Timestamp>,
    ) -> Result<JobView, WaitError> {
        self.shared.waits.wait(id, timeout, known).await
    }
}
