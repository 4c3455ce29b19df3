//! A back end that fails when it is told to: for tests of everything above the door.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use millhand_proto::protocol::Meeting;
use millhand_proto::{AttemptLog, JobId, Mailbox, Parcel, QueueName, Tally, Timestamp, WorkerId};
use tokio::sync::{mpsc, watch};

use crate::backend::{
    Act, Acted, Backend, BoxFuture, Claim, Consumer, Control, Controlled, Delivery, Facts, Flow, Looked, Mail, Pending,
    Pushed, Rebuilt, Settled, Settlement, Subscription,
};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::view::{JobFilter, JobPage, JobView, QueueView, WorkerBeat, WorkerView};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// [`Backend::push`]; a fault makes each answer [`Pushed::Unknown`].
    Push,
    /// [`Backend::consume`]; a fault makes a consumer to which nothing ever comes.
    Consume,
    /// [`Backend::watch`].
    Watch,
    /// [`Backend::beat`].
    Beat,
    /// [`Backend::claim`].
    Claim,
    /// [`Backend::settle`].
    Settle,
    /// [`Backend::read`].
    Read,
    /// [`Backend::tally`].
    Tally,
    /// [`Backend::pending`].
    Pending,
    /// What only people read: [`Backend::log`], [`jobs`](Backend::jobs), [`queues`](Backend::queues),
    /// [`workers`](Backend::workers) and [`stats`](Backend::stats).
    Look,
}

/// How a call fails. Who asked cannot tell the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request does not arrive.
    RequestLost,
    /// The request is carried out, and its answer does not arrive.
    AnswerLost,
}

/// A back end with faults before it.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    planned: Mutex<VecDeque<(Door, Fault)>>,
    /// The other ends of consumers to which nothing comes.
    silent: Mutex<Vec<mpsc::Sender<Delivery>>>,
}

impl Faulty {
    /// Puts faults, none as yet, before a back end.
    #[must_use]
    pub fn around(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            planned: Mutex::default(),
            silent: Mutex::default(),
        })
    }

    /// The next `times` calls of this door fail; faults of one door happen in the order of their
    /// planning.
    pub fn plan(&self, door: Door, fault: Fault, times: usize) {
        self.planned().extend(std::iter::repeat_n((door, fault), times));
    }

    /// How many planned faults have not happened yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.planned().len()
    }

    /// Takes back what was planned and did not happen.
    pub fn unplan(&self) {
        self.planned().clear();
    }

    fn planned(&self) -> MutexGuard<'_, VecDeque<(Door, Fault)>> {
        lock(&self.planned)
    }

    fn next(&self, door: Door) -> Option<Fault> {
        let mut planned = self.planned();
        let at = planned.iter().position(|(planned, _)| *planned == door)?;
        planned.remove(at).map(|(_, fault)| fault)
    }

    fn faulted<'a, T: Send + 'a>(&'a self, door: Door, call: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        let fault = self.next(door);
        Box::pin(async move {
            match fault {
                None => return call.await,
                Some(Fault::RequestLost) => drop(call),
                Some(Fault::AnswerLost) => drop(call.await),
            }
            Err(Error::unreachable("a faulty back end", "a planned fault"))
        })
    }
}

impl Backend for Faulty {
    fn facts(&self) -> Facts {
        self.inner.facts()
    }
    fn now(&self) -> Timestamp {
        self.inner.now()
    }
    fn advance_to(&self, time: Timestamp) -> bool {
        self.inner.advance_to(time)
    }
    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
    fn push(&self, parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Pushed>> {
        let count = parcels.len();
        let call = self.inner.push(parcels);
        let faulted = self.faulted(Door::Push, Box::pin(async move { Ok(call.await) }));
        Box::pin(async move {
            faulted
                .await
                .unwrap_or_else(|error| vec![Pushed::Unknown(error.to_string()); count])
        })
    }
    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        if self.next(Door::Consume).is_none() {
            return self.inner.consume(subscription);
        }
        let (silent, deliveries) = mpsc::channel(1);
        lock(&self.silent).push(silent);
        let flow = watch::Sender::new(Flow::Open(subscription.prefetch));
        let (trouble, unreadable) = (watch::channel(None).1, watch::channel(0).1);
        Box::pin(std::future::ready(Ok(Consumer {
            deliveries,
            flow,
            trouble,
            unreadable,
        })))
    }
    fn claim(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Meeting>>> {
        self.faulted(Door::Claim, self.inner.claim(claims))
    }
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<Settled>>> {
        self.faulted(Door::Settle, self.inner.settle(settlements))
    }
    fn read(&self, ids: Vec<JobId>) -> BoxFuture<'_, Result<Vec<Option<JobView>>>> {
        self.faulted(Door::Read, self.inner.read(ids))
    }
    fn log(&self, id: JobId) -> BoxFuture<'_, Result<Option<AttemptLog>>> {
        self.faulted(Door::Look, self.inner.log(id))
    }
    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>> {
        self.faulted(Door::Watch, self.inner.watch(mailbox))
    }
    fn beat(&self, beat: WorkerBeat) -> BoxFuture<'_, Result<Vec<QueueName>>> {
        self.faulted(Door::Beat, self.inner.beat(beat))
    }
    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, Result<()>> {
        self.inner.leave(worker)
    }
    fn act(&self, acts: Vec<Act>) -> BoxFuture<'_, Result<Vec<Acted>>> {
        self.inner.act(acts)
    }
    fn control(&self, control: Control) -> BoxFuture<'_, Result<Controlled>> {
        self.inner.control(control)
    }
    fn jobs(&self, filter: JobFilter) -> BoxFuture<'_, Result<JobPage>> {
        self.faulted(Door::Look, self.inner.jobs(filter))
    }
    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueView>>> {
        self.faulted(Door::Look, self.inner.queues())
    }
    fn workers(&self) -> BoxFuture<'_, Result<Vec<WorkerView>>> {
        self.faulted(Door::Look, self.inner.workers())
    }
    fn tally(&self, token: u64, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        self.faulted(Door::Tally, self.inner.tally(token, tallies))
    }
    fn stats(&self, since: Timestamp, until: Timestamp) -> BoxFuture<'_, Result<Vec<Tally>>> {
        self.faulted(Door::Look, self.inner.stats(since, until))
    }
    fn pending(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Pending>> {
        self.faulted(Door::Pending, self.inner.pending(queues))
    }
    fn rebuild<'a>(&'a self, progress: &'a mut Looked) -> BoxFuture<'a, Result<Rebuilt>> {
        self.inner.rebuild(progress)
    }
    fn flush(&self) -> BoxFuture<'_, ()> {
        self.inner.flush()
    }
}
