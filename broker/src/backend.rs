//! The door: what every back end does, in prose and as one trait.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use millhand_proto::protocol::{Meeting, Situation, parked_copy, watch_again};
use millhand_proto::{
    AttemptLog, AttemptNote, Fence, JobCopy, JobId, Mailbox, Parcel, Payload, QueueName, Receipt, Successor, Tally,
    Timestamp, WorkerId,
};
use tokio::sync::{mpsc, watch};

use crate::error::Result;
use crate::view::{JobFilter, JobPage, JobView, QueueView, WorkerBeat, WorkerView};

/// A future that a back end answers with.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a back end says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `memory`, `sqlite`, …
    pub kind: &'static str,
    /// Where it is, without secrets.
    pub place: String,
    /// Whether pushed jobs outlive this process.
    pub durable: bool,
    /// Whether other processes can use it at the same time.
    pub shared: bool,
    /// Whether a running job may let go of its delivery (`detach`); otherwise the delivery is
    /// held as long as the job runs, which costs nothing there.
    pub detach: bool,
    /// Whether what a settlement publishes is confirmed by a queue of its own, which may be slow while others are not:
    /// then each is asked for by itself. Where one file takes all, many together are faster.
    pub settles_apart: bool,
    /// Whether a delivery may be on its way for a moment: neither ready in the queue nor held here.
    pub on_the_way: bool,
    /// How long after a worker's death its jobs run again, at the most.
    pub notices_death_within: std::time::Duration,
    /// Whether the arguments of every waiting job can be looked at, not only of delayed ones.
    pub keeps_waiting_arguments: bool,
    /// Whether a cancel of a job that was never seen stands, since its copy may still come.
    pub cancels_strangers: bool,
    /// What a queue's length and a purge count: jobs, or only the messages that they travel in.
    pub counts: Counts,
}

/// What is counted where jobs wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every job.
    Jobs,
    /// Messages: jobs that were enqueued together may travel in one.
    Messages,
}

impl Counts {
    /// The word for one of them.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Jobs => "job",
            Self::Messages => "message",
        }
    }
}

/// What became of a pushed parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is durable: its jobs will run.
    Accepted,
    /// It is not there and never will be.
    Rejected(String),
    /// It may or may not be there. Pushing it again with the same ids is safe.
    Unknown(String),
}

/// What a consumer takes.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Who consumes.
    pub worker: WorkerId,
    /// The queue; all three of its classes are consumed.
    pub queue: QueueName,
    /// Parcels of each class that may be unsettled at once, at least 1.
    pub prefetch: usize,
}

/// What a worker tells its consumer while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Deliver, up to so many unsettled parcels of each class.
    Open(usize),
    /// Deliver nothing for now.
    Held,
}

/// The receiving end of a subscription. It owns the deliveries' acknowledgement: a delivery ends
/// when each of its jobs is settled, and one that is never settled comes again after this worker
/// is gone.
#[derive(Debug)]
pub struct Consumer {
    /// The deliveries. `None` is a fault or the end of the back end, never a shutdown by itself.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// How fast to deliver. Dropping it ends the subscription.
    pub flow: watch::Sender<Flow>,
    /// Why nothing can come for now, while that is mended; `None` while all is well, also when it is held.
    pub trouble: watch::Receiver<Option<String>>,
    /// Parcels that came and cannot be read, or not whole. While they come, the consumer is well.
    pub unreadable: watch::Receiver<u64>,
}

/// Which delivery a job came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId(pub u64);

/// A parcel in a worker's hands.
#[derive(Debug)]
pub struct Delivery {
    /// Which.
    pub id: DeliveryId,
    /// Its jobs. Jobs that could not be read are dead already.
    pub parcel: Parcel,
    /// How often it had been delivered before.
    pub redeliveries: u32,
    /// When it was durable in the queue and due.
    pub ready_at: Timestamp,
    /// When it was taken from the queue.
    pub taken_at: Timestamp,
}

/// A job with its slot, asking for leave to run.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The copy.
    pub copy: JobCopy,
    /// What the worker knows. `owner_alive` is filled in by the back end.
    pub situation: Situation,
}

/// What a worker decided about one job of a delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The delivery that it holds.
    pub delivery: DeliveryId,
    /// The copy.
    pub copy: JobCopy,
    /// What is to happen.
    pub verdict: Verdict,
    /// What its attempt printed and said, as [`AttemptLog::encode`] makes it; kept beside the record in
    /// place of the log of an earlier attempt, as long as the record. `None` where it was silent.
    pub log: Option<Bytes>,
}

/// The ways by which a job leaves a worker.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The copy needs no run: acknowledge it.
    Acknowledge,
    /// Publish it again with its hand, then acknowledge: no run, no decision.
    Release(Release),
    /// It succeeded.
    Succeed {
        /// Its claim.
        fence: Fence,
        /// What it answered.
        result: Payload,
        /// Where the time went.
        receipt: Receipt,
        /// Jobs that it enqueued; they are durable before its end is.
        children: Vec<Parcel>,
    },
    /// It was cancelled while it ran.
    Cancel {
        /// Its claim.
        fence: Fence,
        /// Its last attempt.
        note: Option<AttemptNote>,
        /// Where the time went.
        receipt: Receipt,
    },
    /// A decided successor follows: retry, snooze or death.
    Leave {
        /// Its claim; `None` when it dies without a run.
        fence: Option<Fence>,
        /// The successor.
        successor: Successor,
        /// Why it dies, as a code.
        reason: Option<String>,
        /// The attempt that ended.
        note: Option<AttemptNote>,
        /// Where the time went.
        receipt: Option<Receipt>,
    },
    /// It runs long: a watch copy looks after it from now on, and its delivery is let go.
    Detach,
    /// The record says leaving: publish that successor again and write its confirm.
    Replay(Successor),
    /// It ran and goes back uncounted: the worker stops.
    GiveBack {
        /// Its claim.
        fence: Fence,
        /// The worker that gives it back.
        worker: WorkerId,
    },
}

/// Why and until when a copy goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Its owner is alive: look again then.
    Busy(Timestamp),
    /// Not due before then.
    NotDue(Timestamp),
    /// Not understood here: look again then.
    Parked(Timestamp),
    /// Back to the queue at once: no slot, a pause, a stop.
    Now,
    /// The same, and in a parcel of its own: what it came with may be what kills workers.
    Alone,
}

impl Release {
    /// The copy that goes back.
    pub(crate) fn of(self, copy: &JobCopy, now: Timestamp) -> JobCopy {
        match self {
            Self::Busy(until) => watch_again(copy, until),
            Self::Parked(until) => parked_copy(copy, until, now),
            Self::NotDue(due) => {
                let mut copy = copy.clone();
                copy.hop.due = Some(due);
                copy
            }
            Self::Now | Self::Alone => copy.clone(),
        }
    }
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Done, also when it had been done before.
    Done,
    /// A newer claim stands: the outcome was thrown away. The copy is still held and is to be met
    /// again: who wrote past it may hold none (a store that was restored tells of old claims).
    Stale,
    /// What goes with it could not be published: settle it again. Others are not held up by it.
    Again,
}

/// What a person or a client wants of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Cancel it.
    Cancel(JobId),
    /// Try a dead job again.
    Retry(JobId),
    /// Run a scheduled job now.
    RunNow(JobId),
    /// Forget an ended job.
    Drop(JobId),
    /// Tell this mailbox when it ends.
    Listen(JobId, Mailbox),
}

/// What an act did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done,
    /// It runs; its worker was asked to stop it.
    Asked,
    /// It cannot be done, for this reason.
    Refused(String),
    /// Nothing is known of the job.
    Unknown,
}

/// What a person wants of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Deliver nothing from it.
    Pause(QueueName),
    /// Deliver again.
    Resume(QueueName),
    /// Cancel what waits in it and is due, at most so many; call again until fewer are answered.
    Purge(QueueName, usize),
}

/// What a control did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controlled {
    /// Whether anything changed.
    pub changed: bool,
    /// Jobs that were purged, or messages: see [`Facts::counts`].
    pub jobs: usize,
    /// Whether more may be waiting: a purge takes a bounded piece at a time.
    pub more: bool,
}

/// Hears how many dead copies were looked at; answers whether to go on.
pub type Looked = dyn FnMut(usize) -> bool + Send;

/// What looking through the backup of the dead did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Copies that were looked at.
    pub looked_at: usize,
    /// Dead jobs of which nothing was known any more.
    pub remembered: usize,
}

/// A message to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// This job ended.
    Ended(JobId),
    /// A cancel was asked for a job that this worker runs.
    Cancel(JobId),
    /// Pauses changed: read them again.
    Control,
    /// Messages may have been lost: read again what you wait for.
    Lost,
}

/// What is still to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Parcels that are due and in nobody's hands.
    pub ready: usize,
    /// Parcels in somebody's hands.
    pub held: usize,
    /// When the next delayed parcel is due.
    pub next_due: Option<Timestamp>,
}

/// The one door. Object-safe; every call takes a batch; calls may run side by side.
///
/// # Contract
/// - **push** answers when the parcels are durable. `Unknown` means that nobody can say; pushing
///   the same ids again is safe, because an id is one job.
/// - **consume** delivers each parcel to one consumer at a time. When its worker is gone the parcel
///   is delivered again, with `redeliveries` raised.
/// - **claim** applies [`millhand_proto::protocol::meet`]; after `Run` nobody else runs the job
///   while this worker lives and the deadline has not passed.
/// - **settle** makes the verdict durable and only then ends the delivery: the next copy is in the
///   queue before the present one leaves it. It may be repeated.
/// - **read** answers `None` for a job of which nothing is known.
/// - **watch** delivers messages at most once; who waits reads again from time to time.
/// - A call that answers `Err` may have been carried out.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// What this back end is.
    fn facts(&self) -> Facts;
    /// The time by the store's clock.
    fn now(&self) -> Timestamp;
    /// Moves a virtual clock forward; `false` for a real one.
    fn advance_to(&self, time: Timestamp) -> bool {
        let _ = time;
        false
    }
    /// Why nothing can be pushed for now, where that is known without asking anybody.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Makes parcels durable: one answer each, in order.
    fn push(&self, parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Pushed>>;
    /// Starts to deliver.
    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>>;
    /// Asks for leave to run: one answer each, in order.
    fn claim(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Meeting>>>;
    /// Settles jobs: one answer each, in order.
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<Settled>>>;
    /// Reads jobs: one answer each, in order.
    fn read(&self, ids: Vec<JobId>) -> BoxFuture<'_, Result<Vec<Option<JobView>>>>;
    /// What the newest attempt of a job that ended printed and said; `None` when it was silent, and
    /// when the log was lost, on which nothing depends.
    fn log(&self, id: JobId) -> BoxFuture<'_, Result<Option<AttemptLog>>>;
    /// Opens a mailbox.
    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>>;
    /// Says that a worker lives; answers which of its queues are paused.
    fn beat(&self, beat: WorkerBeat) -> BoxFuture<'_, Result<Vec<QueueName>>>;
    /// Says that a worker is gone: what it still holds goes back.
    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, Result<()>>;
    /// Acts on jobs: one answer each, in order.
    fn act(&self, acts: Vec<Act>) -> BoxFuture<'_, Result<Vec<Acted>>>;
    /// Acts on a queue.
    fn control(&self, control: Control) -> BoxFuture<'_, Result<Controlled>>;
    /// Lists jobs, newest first.
    fn jobs(&self, filter: JobFilter) -> BoxFuture<'_, Result<JobPage>>;
    /// Lists queues by name.
    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueView>>>;
    /// Lists workers.
    fn workers(&self) -> BoxFuture<'_, Result<Vec<WorkerView>>>;
    /// Adds to the numbers of minutes: nothing that a decision rests on. A call that fails may have
    /// been carried out, wholly or in part: who repeats it within the hour, with the same numbers under
    /// the same random token, counts nothing twice.
    fn tally(&self, token: u64, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>>;
    /// Reads the numbers of the minutes that this time touches, merged for each minute, queue and
    /// task, the oldest first; minutes before [`limits::KEEP_STATS`](millhand_proto::limits) are
    /// forgotten.
    fn stats(&self, since: Timestamp, until: Timestamp) -> BoxFuture<'_, Result<Vec<Tally>>>;
    /// What is still to do in these queues (all when empty).
    fn pending(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Pending>>;
    /// Remembers dead jobs again whose records were lost, from their backup in the queue; there is
    /// nothing to do where queue and store are one.
    fn rebuild<'a>(&'a self, progress: &'a mut Looked) -> BoxFuture<'a, Result<Rebuilt>> {
        let _ = progress;
        Box::pin(async { Ok(Rebuilt::default()) })
    }
    /// Waits for what was promised to be written soon, such as the sight of accepted jobs.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
