//! What cannot be read is set aside, beside what else comes: whoever sends much of it must not slow down the
//! others. It counts as in hand until it is aside and its jobs are told to be dead, so that RabbitMQ bounds how much
//! there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millhand_proto::{JobId, QueueName, limits};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::Pair;
use super::changes::Change;
use super::queue::{Arrival, Generation, Outgoing};
use super::store::{Effect, Key, Swap};
use crate::backend::{Delivery, Pushed};
use crate::unreadable::Report;

/// The pause between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages that go together.
const BATCH: usize = 128;
/// Batches on their way at once: one that waits long for its confirm does not hold up all others.
const AT_ONCE: usize = 4;
/// Jobs that are told to be dead in one call.
const CHANGES: usize = 1024;

/// A message that cannot be read, or not all of it.
pub(super) struct Spoiled {
    pub(super) arrival: Arrival,
    /// The jobs that cannot be read: the id, where that could be and is not told to be dead yet, and why.
    pub(super) bad: Vec<(Option<JobId>, String)>,
    /// What can be read of it.
    pub(super) delivery: Option<Delivery>,
    /// Whether it has been published to the queue for such.
    pub(super) aside: bool,
}

impl Spoiled {
    fn reason(&self) -> &str {
        self.bad.first().map_or("", |(_, why)| why)
    }

    /// Whether no job is left to be told of.
    fn told(&self) -> bool {
        self.bad.iter().all(|(id, _)| id.is_none())
    }
}

/// Who sets aside what comes to one subscription.
pub(super) struct Aside {
    pub(super) pair: Arc<Pair>,
    pub(super) queue: QueueName,
    pub(super) out: mpsc::Sender<Delivery>,
    /// How many came.
    pub(super) seen: watch::Sender<u64>,
    /// The newest of its channels that was lost: what that and those before had delivered comes again.
    pub(super) lost: Arc<AtomicU64>,
}

impl Aside {
    /// Works until nothing more can come. What comes while enough is on its way goes together with the next; what
    /// a server does not take is tried again beside the others, which it does not hold up.
    pub(super) async fn run(self, mut came: mpsc::UnboundedReceiver<Spoiled>) {
        let (mut fresh, mut again, mut said) = (Vec::new(), Vec::new(), None);
        let mut report = Report::new(self.queue.clone());
        // One try at a time.
        let (mut under_way, mut trying) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut tries = interval(AGAIN);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (left, trouble) = tokio::select! {
                messages = came.recv_many(&mut fresh, BATCH), if under_way.len() < AT_ONCE => {
                    if messages == 0 {
                        // What is left comes to another worker.
                        break;
                    }
                    let bytes: usize = fresh.iter().map(|spoiled| spoiled.arrival.body.len()).sum();
                    report.add(messages, bytes, fresh.first().map_or("", Spoiled::reason));
                    under_way.push(self.set_aside(std::mem::take(&mut fresh)));
                    continue;
                }
                _ = tries.tick(), if !again.is_empty() && trying.is_empty() => {
                    let lost = self.lost.load(Ordering::SeqCst);
                    again.retain(|spoiled: &Spoiled| Generation::of(spoiled.arrival.id).0.0 > lost);
                    // Nothing else comes while these fill the prefetch, and yet nobody is deaf.
                    self.seen.send_modify(|_| ());
                    let some = again.drain(..again.len().min(BATCH)).collect();
                    trying.push(self.set_aside(some));
                    continue;
                }
                () = report.due() => {
                    report.say();
                    continue;
                }
                Some(ended) = under_way.next() => ended,
                Some(ended) = trying.next() => ended,
            };
            let (queue, messages) = (&self.queue, left.len());
            again.extend(left);
            if trouble.is_some() && trouble != said {
                tracing::warn!(%queue, messages, trouble, "unreadable messages are tried again");
            }
            if trouble.is_some() || again.is_empty() {
                said = trouble;
            }
        }
        while under_way.next().await.is_some() || trying.next().await.is_some() {}
    }

    /// Sets a batch aside, and lets go of it; answers what has to be tried again, and why.
    async fn set_aside(&self, mut batch: Vec<Spoiled>) -> (Vec<Spoiled>, Option<String>) {
        let refused = self.publish(&mut batch).await;
        let mut again: Vec<_> = batch.extract_if(.., |spoiled| !spoiled.aside).collect();
        // These wait for nobody.
        self.let_go(batch.extract_if(.., |spoiled| spoiled.told() && spoiled.delivery.is_none()));
        let untold = self.tell(&mut batch).await;
        again.extend(batch.extract_if(.., |spoiled| !spoiled.told()));
        self.let_go(batch.extract_if(.., |spoiled| spoiled.delivery.is_none()));
        for delivery in batch.into_iter().filter_map(|spoiled| spoiled.delivery) {
            // What was lost meanwhile comes again.
            if self.pair.ledger.holds(delivery.id, delivery.parcel.jobs()[0].id()) {
                let _ = self.out.send(delivery).await;
            }
        }
        (again, refused.or(untold))
    }

    /// Publishes what is kept of them; answers why one was not taken.
    async fn publish(&self, batch: &mut [Spoiled]) -> Option<String> {
        let mut fresh: Vec<_> = batch.iter_mut().filter(|spoiled| !spoiled.aside).collect();
        let messages = fresh.iter().map(|spoiled| Outgoing::unreadable(&spoiled.arrival.body));
        let pushed = self.pair.queue.publish(messages.collect()).await;
        let mut trouble = None;
        for (spoiled, pushed) in fresh.iter_mut().zip(pushed) {
            match pushed {
                Pushed::Accepted => spoiled.aside = true,
                Pushed::Rejected(why) | Pushed::Unknown(why) => trouble = Some(why),
            }
        }
        fresh.retain(|spoiled| spoiled.aside);
        self.note(&fresh);
        trouble
    }

    /// Jobs whose ids could be read are dead; answers why that could not be told.
    async fn tell(&self, aside: &mut [Spoiled]) -> Option<String> {
        let bad = aside.iter_mut().flat_map(|spoiled| &mut spoiled.bad);
        let mut named: Vec<_> = bad.filter(|(id, _)| id.is_some()).collect();
        for some in named.chunks_mut(CHANGES) {
            let change = |(id, reason): &&mut (Option<JobId>, String)| {
                let (id, queue, reason) = ((*id)?, self.queue.clone(), reason.clone());
                Some(Change::Unreadable { id, queue, reason })
            };
            let told = self.pair.records.change(some.iter().filter_map(change).collect()).await;
            let mut trouble = None;
            for ((id, _), told) in some.iter_mut().zip(told) {
                match told {
                    Ok(_) => *id = None,
                    Err(error) => trouble = Some(error.to_string()),
                }
            }
            // A store that is away would let the others wait too.
            if trouble.is_some() {
                return trouble;
            }
        }
        None
    }

    /// Nothing of these is left to be done.
    fn let_go(&self, spoiled: impl Iterator<Item = Spoiled>) {
        self.pair.queue.acknowledge(spoiled.map(|s| s.arrival.id).collect());
    }

    /// Leaves word of the newest. It is only to be looked at: nothing waits for it.
    fn note(&self, aside: &[&mut Spoiled]) {
        let now = self.pair.store.now();
        let newest = &aside[aside.len().saturating_sub(limits::UNREADABLE_NOTES)..];
        let note = |spoiled: &&mut Spoiled| {
            let note = (now, &self.queue, spoiled.reason(), spoiled.arrival.body.len());
            let note = rmp_serde::to_vec(&note).unwrap_or_default().into();
            Effect::AppendCapped(Key::Unreadable, note, limits::KEEP_OTHERS, limits::UNREADABLE_NOTES)
        };
        let effects: Vec<_> = newest.iter().map(note).collect();
        if !effects.is_empty() {
            let bytes = effects.iter().map(Effect::bytes).sum();
            let writes = Vec::new();
            self.pair.notes.say(Swap { writes, effects }, bytes);
        }
    }
}
