//! What carries parcels: it publishes, delivers and takes acknowledgements, and knows no record.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Class, JobCopy, QueueName, Timestamp, WorkerId, limits};
use tokio::sync::{mpsc, watch};

use crate::backend::{BoxFuture, DeliveryId, Flow, Pushed, Subscription};
use crate::error::Result;
use crate::unreadable::kept;

/// The queue under the pair. Every call takes a batch; calls may run side by side.
pub(crate) trait Queue: Send + Sync + Debug {
    /// Where it is, without secrets.
    fn place(&self) -> String;
    /// Why nothing can be published for now, where that is known.
    fn trouble(&self) -> Option<String>;
    /// Makes messages durable: one answer each, in order. It waits out short faults; what it could
    /// not send in time is `Rejected`, what it sent without learning the end is `Unknown`.
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Pushed>>;
    /// Starts to deliver. A fault of the connection does not end it: it is rebuilt, and what was
    /// delivered before is told to be [`Arrived::Lost`]. `held` starts it with [`Flow::Held`].
    fn consume(&self, subscription: Subscription, held: bool) -> BoxFuture<'_, Result<Arrivals>>;
    /// Ends deliveries. Those of a connection that is gone are passed over: they come again.
    fn acknowledge(&self, deliveries: Vec<DeliveryId>);
    /// Ends a worker's consumers; what it still holds goes back.
    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, ()>;
    /// Ready messages of each queue, all classes together.
    fn depths(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Vec<u64>>>;
    /// Empties a queue of its ready messages, all classes; answers how many they were.
    fn purge(&self, queue: QueueName) -> BoxFuture<'_, Result<u64>>;
    /// Takes up to so many messages out of a side queue. They are gone when they are acknowledged.
    fn take(&self, from: Side, most: usize) -> BoxFuture<'_, Result<Vec<Arrival>>>;
    /// Messages in a side queue.
    fn depth_of(&self, side: Side) -> BoxFuture<'_, Result<u64>>;
}

/// A message on its way in.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Where to.
    pub(crate) to: Route,
    /// The parcel.
    pub(crate) body: Bytes,
    /// Where its queue is full, the ladder carries it for some seconds. What a worker must get rid of goes so: the
    /// slots that would empty the queue wait for it.
    or_later: bool,
}

impl Outgoing {
    /// A message that its queue may refuse.
    pub(crate) fn new(to: Route, body: Bytes) -> Self {
        let or_later = false;
        Self { to, body, or_later }
    }

    /// What cannot be read, on its way aside.
    pub(crate) fn unreadable(body: &Bytes) -> Self {
        Self::new(Route::Side(Side::Unreadable, None), body.slice_ref(kept(body)))
    }

    /// The same, that a worker must get rid of.
    pub(crate) fn or_later(self) -> Self {
        let or_later = true;
        Self { or_later, ..self }
    }

    /// Whether the ladder may carry it when its queue is full.
    pub(crate) fn goes_later(&self) -> bool {
        self.or_later && matches!(self.to, Route::Work(..))
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To its queue at once.
    Work(QueueName, Class),
    /// To its queue after this long, rounded up to whole seconds; what is longer than the ladder
    /// comes early, is met *not due*, and goes round again. What may be a little late (`true`) makes
    /// at most three hops.
    Later(QueueName, Class, Duration, bool),
    /// Aside; kept for so long at most where that is less than the side queue keeps anyway.
    Side(Side, Option<Duration>),
}

impl Route {
    /// To its queue, at once or later.
    pub(crate) fn to(copy: &JobCopy, wait: Duration, coarse: bool) -> Self {
        Self::of(copy, copy.core.class, wait, coarse)
    }

    /// Back to its queue. Who looks after a run goes ahead, also when it found no slot or came too early.
    pub(crate) fn back(copy: &JobCopy, wait: Duration) -> Self {
        match copy.hop.busy {
            0 => Self::to(copy, wait, false),
            _ => Self::ahead(copy, wait),
        }
    }

    /// To its queue before what waits there. Such a copy looks whether its worker is alive, or, of a suspect, whether
    /// another one still runs: behind a backlog it would come long after the lease that it waits for.
    pub(crate) fn ahead(copy: &JobCopy, wait: Duration) -> Self {
        // Clocks differ by milliseconds, and coarsely 16.01 s are 20: the first look would be late.
        let coarse = wait > limits::LEASE + Duration::from_secs(2);
        Self::of(copy, Class::High, wait, coarse)
    }

    fn of(copy: &JobCopy, class: Class, wait: Duration, coarse: bool) -> Self {
        let queue = copy.core.queue.clone();
        if wait.is_zero() {
            Self::Work(queue, class)
        } else {
            Self::Later(queue, class, wait, coarse)
        }
    }
}

/// The queues beside those that work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// Backup of the records of dead jobs.
    Dead,
    /// What found no route, or was delivered too often.
    Lost,
    /// What is no parcel; bounded.
    Unreadable,
}

/// The receiving end of a subscription. Dropping `flow` ends it; what is in hands can still be
/// acknowledged, until its worker leaves.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) flow: watch::Sender<Flow>,
    /// Why nothing can arrive for now.
    pub(crate) trouble: watch::Receiver<Option<String>>,
}

/// What a subscription tells.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A message came.
    Message(Arrival),
    /// A channel was lost with all that it had delivered: those ids end here and come again.
    Lost(Generation),
}

/// One channel, from its opening to its loss. A delivery's id is its channel's generation and the
/// channel's delivery tag in one number, so that neither needs a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Generation(pub(crate) u64);

impl Generation {
    const TAG_BITS: u32 = 40;

    /// The delivery with this tag.
    pub(crate) fn delivery(self, tag: u64) -> DeliveryId {
        DeliveryId(self.0 << Self::TAG_BITS | tag & ((1 << Self::TAG_BITS) - 1))
    }

    /// The generation and tag of a delivery.
    pub(crate) fn of(delivery: DeliveryId) -> (Self, u64) {
        let tag = delivery.0 & ((1 << Self::TAG_BITS) - 1);
        (Self(delivery.0 >> Self::TAG_BITS), tag)
    }
}

/// A message in hands.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: DeliveryId,
    pub(crate) body: Bytes,
    /// How often it had been delivered before.
    pub(crate) redeliveries: u32,
    /// When it was published, by the publisher's clock, where the message tells.
    pub(crate) published_at: Option<Timestamp>,
    /// When it came, by this machine's clock.
    pub(crate) taken_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use millhand_proto::{Core, JobId, TaskName};

    use super::*;

    #[test]
    fn the_first_look_after_a_lease_is_not_rounded_up_by_seconds() {
        let (id, now) = (JobId::given("job"), Timestamp::MIN_WIRE);
        let core = Core::new(id, TaskName::new("task").expect("a name"), QueueName::default(), now);
        let copy = JobCopy::first(core);
        let coarse = |seconds: u64, ms: u64| {
            let route = Route::ahead(&copy, Duration::from_secs(seconds) + Duration::from_millis(ms));
            matches!(route, Route::Later(_, Class::High, _, true))
        };
        assert!(!coarse(15, 990) && !coarse(16, 10));
        assert!(coarse(30, 0) && coarse(60, 0));
    }
}
