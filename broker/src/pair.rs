//! RabbitMQ carries, Redis remembers: one back end of the two. Only here is the order known:
//! remember, release with its confirm, acknowledge.

mod aside;
mod beats;
mod caretaker;
mod changes;
mod consume;
mod control;
mod deliveries;
mod group;
mod operate;
mod push;
pub(crate) mod queue;
mod records;
mod registry;
mod settle;
pub(crate) mod store;
mod tallies;
#[cfg(test)]
mod tests;
mod trust;
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use millhand_proto::protocol::Meeting;
use millhand_proto::{AttemptLog, JobId, Mailbox, Parcel, QueueName, Tally, Timestamp, WorkerId};
use tokio::sync::{OnceCell, mpsc, watch};

use self::changes::{Change, Reply};
use self::control::Rules;
use self::deliveries::Ledger;
use self::push::Notes;
use self::queue::Queue;
use self::records::Records;
use self::registry::Registry;
use self::store::{Effect, Store, Swap};
use self::trust::Trust;
use crate::backend::{
    Act, Acted, Backend, BoxFuture, Claim, Consumer, Control, Controlled, Counts, Facts, Looked, Mail, Pending, Pushed,
    Rebuilt, Settled, Settlement, Subscription,
};
use crate::crash;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::view::{JobFilter, JobPage, JobView, QueueView, WorkerBeat, WorkerView};

/// Every so many beats the side queues are looked after: often enough for the lease of who does it,
/// and seldom enough for an idle fleet to cost next to nothing.
const CARE_BEATS: u32 = 3;

/// Queue and store, and what this process has in its hands.
#[derive(Debug)]
pub(crate) struct Pair {
    queue: Arc<dyn Queue>,
    store: Arc<dyn Store>,
    records: Arc<Records>,
    ledger: Ledger,
    trust: Arc<Trust>,
    notes: Notes,
    registry: Registry,
    rules: watch::Sender<Rules>,
    /// Whether it hears what is told to everybody.
    hearing: OnceCell<()>,
    /// Beats of this process's workers.
    beats: AtomicU32,
    /// Whether a look after the side queues is under way.
    caring: AtomicBool,
    /// The store has forgotten: what this process wrote is to be written again.
    restore_due: AtomicBool,
    /// The store has forgotten: the dead queue is to be read.
    rebuild_due: AtomicBool,
    io: Io,
}

impl Pair {
    pub(crate) fn new(queue: Arc<dyn Queue>, store: Arc<dyn Store>, io: Io) -> Arc<Self> {
        let trust = Arc::<Trust>::default();
        let records = Arc::new(Records::new(&store, &trust, &io));
        Arc::new(Self {
            ledger: Ledger::new(Arc::clone(&records)),
            notes: Notes::start(Arc::clone(&store), &io),
            queue,
            store,
            records,
            trust,
            registry: Registry::default(),
            rules: watch::Sender::default(),
            hearing: OnceCell::new(),
            beats: AtomicU32::new(0),
            caring: false.into(),
            restore_due: false.into(),
            rebuild_due: false.into(),
            io,
        })
    }

    /// Effects without a swap.
    async fn effects(&self, effects: Vec<Effect>) -> Result<()> {
        let swap = Swap {
            writes: Vec::new(),
            effects,
        };
        self.store.swap(vec![swap]).await.map(drop)
    }

    async fn claim_all(&self, claims: Vec<Claim>) -> Result<Vec<Meeting>> {
        let copies: Vec<_> = claims.iter().map(|claim| claim.copy.clone()).collect();
        let changes = {
            let rules = self.rules.borrow();
            let claim = |Claim { copy, situation }: Claim| Change::Claim {
                purged: rules.purged(&copy.core.queue),
                copy,
                situation,
            };
            claims.into_iter().map(claim).collect()
        };
        let mut met = Vec::with_capacity(copies.len());
        crash::point("claim.before");
        let replies = self.records.change(changes).await;
        crash::point("claim.after");
        for (copy, reply) in copies.iter().zip(replies) {
            let Reply::Met(meeting) = reply? else {
                return Err(Error::Closed);
            };
            if matches!(meeting, Meeting::Run { .. }) {
                self.ledger.runs(copy);
            }
            met.push(meeting);
        }
        Ok(met)
    }

    async fn beat(self: &Arc<Self>, beat: WorkerBeat) -> Result<Vec<QueueName>> {
        let (worker, queues) = (beat.worker, beat.queues.clone());
        let paused = self.beat_once(beat).await?;
        let turn = self.beats.fetch_add(1, Ordering::Relaxed).is_multiple_of(CARE_BEATS);
        if !turn && !self.rebuild_due.load(Ordering::SeqCst) {
            return Ok(paused);
        }
        if !self.caring.swap(true, Ordering::SeqCst) {
            let pair = Arc::clone(self);
            self.io.handle().spawn(async move {
                let done = Arc::clone(&pair);
                pair.take_care(worker, queues).await;
                done.caring.store(false, Ordering::SeqCst);
            });
        }
        Ok(paused)
    }
}

/// The pair as a back end. `Arc`, because consumers outlive a call.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Pair>);

impl Backend for Shared {
    fn facts(&self) -> Facts {
        Facts {
            kind: "pair",
            place: format!("{} + {}", self.0.queue.place(), self.0.store.place()),
            durable: true,
            shared: true,
            detach: true,
            settles_apart: true,
            on_the_way: true,
            notices_death_within: Duration::from_secs(20),
            keeps_waiting_arguments: false,
            cancels_strangers: true,
            counts: Counts::Messages,
        }
    }

    fn now(&self) -> Timestamp {
        self.0.store.now()
    }

    fn trouble(&self) -> Option<String> {
        self.0.queue.trouble()
    }

    fn push(&self, parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Pushed>> {
        Box::pin(self.0.push_all(parcels, false))
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        Box::pin(consume::start(&self.0, subscription))
    }

    fn claim(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Meeting>>> {
        Box::pin(self.0.claim_all(claims))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<Settled>>> {
        Box::pin(async move { self.0.settle_all(&settlements).await })
    }

    fn read(&self, ids: Vec<JobId>) -> BoxFuture<'_, Result<Vec<Option<JobView>>>> {
        Box::pin(async move { self.0.views(&ids).await })
    }

    fn log(&self, id: JobId) -> BoxFuture<'_, Result<Option<AttemptLog>>> {
        Box::pin(self.0.log(id))
    }

    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>> {
        self.0.store.watch(mailbox)
    }

    fn beat(&self, beat: WorkerBeat) -> BoxFuture<'_, Result<Vec<QueueName>>> {
        Box::pin(self.0.beat(beat))
    }

    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.0.queue.leave(worker).await;
            self.0.ledger.left(worker);
            self.0.farewell(worker).await
        })
    }

    fn act(&self, acts: Vec<Act>) -> BoxFuture<'_, Result<Vec<Acted>>> {
        Box::pin(self.0.act_all(acts))
    }

    fn control(&self, control: Control) -> BoxFuture<'_, Result<Controlled>> {
        Box::pin(self.0.control_queue(control))
    }

    fn jobs(&self, filter: JobFilter) -> BoxFuture<'_, Result<JobPage>> {
        Box::pin(async move { self.0.list(&filter).await })
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueView>>> {
        Box::pin(self.0.queue_views())
    }

    fn workers(&self) -> BoxFuture<'_, Result<Vec<WorkerView>>> {
        Box::pin(self.0.worker_views())
    }

    fn tally(&self, token: u64, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.add_tallies(token, tallies))
    }

    fn stats(&self, since: Timestamp, until: Timestamp) -> BoxFuture<'_, Result<Vec<Tally>>> {
        Box::pin(self.0.read_tallies(since, until))
    }

    fn pending(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Pending>> {
        Box::pin(async move {
            let named = if queues.is_empty() {
                self.0.queue_views().await?.into_iter().map(|view| view.name).collect()
            } else {
                queues.clone()
            };
            let ready: u64 = self.0.queue.depths(named).await?.into_iter().sum();
            Ok(Pending {
                ready: usize::try_from(ready).unwrap_or(usize::MAX),
                held: self.0.ledger.count(&queues),
                next_due: None,
            })
        })
    }

    fn rebuild<'a>(&'a self, progress: &'a mut Looked) -> BoxFuture<'a, Result<Rebuilt>> {
        Box::pin(self.0.rebuild_dead(progress))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.notes.flush())
    }
}
