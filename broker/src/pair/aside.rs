//! What cannot be read is set aside, beside what else comes: whoever sends much of it must not slow down the
//! others. It counts as in hand until it is aside, so that RabbitMQ bounds how much there is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millhand_proto::{JobId, QueueName, limits};
use tokio::sync::mpsc;

use super::Pair;
use super::changes::Change;
use super::queue::{Arrival, Outgoing, Route, Side};
use super::store::{Effect, Key, Swap};
use crate::backend::{Delivery, Pushed};
use crate::unreadable::kept;

/// The pause between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages that go together.
const BATCH: usize = 128;
/// Batches on their way at once: one that waits long for its confirm does not hold up all others.
const AT_ONCE: usize = 4;

/// A message that cannot be read, or not all of it.
pub(super) struct Spoiled {
    pub(super) arrival: Arrival,
    /// The jobs, where that much can be read, and why not more.
    pub(super) bad: Vec<(Option<JobId>, String)>,
    /// What can be read of it.
    pub(super) delivery: Option<Delivery>,
}

impl Spoiled {
    fn reason(&self) -> &str {
        self.bad.first().map_or("", |(_, why)| why)
    }

    /// Its bytes, on their way aside.
    fn outgoing(&self) -> Outgoing {
        let body = &self.arrival.body;
        Outgoing::new(Route::Side(Side::Unreadable, None), body.slice_ref(kept(body)))
    }
}

/// Who sets aside what comes to one subscription.
pub(super) struct Aside {
    pub(super) pair: Arc<Pair>,
    pub(super) queue: QueueName,
    pub(super) out: mpsc::Sender<Delivery>,
}

impl Aside {
    /// Works until nothing more can come. What comes while enough is on its way goes together with the next.
    pub(super) async fn run(self, mut came: mpsc::UnboundedReceiver<Spoiled>) {
        let (mut batch, mut under_way) = (Vec::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                messages = came.recv_many(&mut batch, BATCH), if under_way.len() < AT_ONCE => {
                    if messages == 0 {
                        break;
                    }
                    under_way.push(self.see_off(std::mem::take(&mut batch)));
                }
                Some(()) = under_way.next() => {}
            }
        }
        while under_way.next().await.is_some() {}
    }

    /// Sets a batch aside, however long that takes.
    async fn see_off(&self, mut batch: Vec<Spoiled>) {
        let bytes: usize = batch.iter().map(|spoiled| spoiled.arrival.body.len()).sum();
        let (queue, reason) = (&self.queue, batch.first().map(Spoiled::reason));
        tracing::warn!(%queue, messages = batch.len(), bytes, reason, "unreadable; set aside");
        loop {
            batch = self.set_aside(batch).await;
            // Who is gone leaves them to another worker.
            if batch.is_empty() || self.out.is_closed() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Answers what could not be set aside.
    async fn set_aside(&self, batch: Vec<Spoiled>) -> Vec<Spoiled> {
        let queue = &self.queue;
        let pushed = self.pair.queue.publish(batch.iter().map(Spoiled::outgoing).collect());
        let (mut aside, mut left) = (Vec::new(), Vec::new());
        let mut trouble = None;
        for (spoiled, pushed) in batch.into_iter().zip(pushed.await) {
            match pushed {
                Pushed::Accepted => aside.push(spoiled),
                Pushed::Rejected(why) | Pushed::Unknown(why) => {
                    trouble = Some(why);
                    left.push(spoiled);
                }
            }
        }
        if let Some(error) = trouble {
            tracing::warn!(%queue, error, messages = left.len(), "unreadable messages could not be set aside; it is tried again");
        }
        self.tell(&aside).await;
        self.note(&aside);
        let mut over = Vec::new();
        for Spoiled { arrival, delivery, .. } in aside {
            match delivery {
                None => over.push(arrival.id),
                // What was lost meanwhile comes again.
                Some(delivery) => {
                    if self.pair.ledger.holds(delivery.id, delivery.parcel.jobs()[0].id()) {
                        let _ = self.out.send(delivery).await;
                    }
                }
            }
        }
        self.pair.queue.acknowledge(over);
        left
    }

    /// Jobs whose ids could be read are dead.
    async fn tell(&self, aside: &[Spoiled]) {
        let queue = &self.queue;
        let bad = aside.iter().flat_map(|spoiled| &spoiled.bad);
        let changes: Vec<_> = bad
            .filter_map(|(id, reason)| {
                let (id, queue, reason) = ((*id)?, queue.clone(), reason.clone());
                Some(Change::Unreadable { id, queue, reason })
            })
            .collect();
        if changes.is_empty() {
            return;
        }
        let told = self.pair.records.change(changes).await;
        if let Some(error) = told.into_iter().find_map(Result::err) {
            tracing::debug!(%queue, %error, "a job in an unreadable message is not told to be dead");
        }
    }

    /// Leaves word of the newest. It is only to be looked at: nothing waits for it.
    fn note(&self, aside: &[Spoiled]) {
        let now = self.pair.store.now();
        let newest = &aside[aside.len().saturating_sub(limits::UNREADABLE_NOTES)..];
        let note = |spoiled: &Spoiled| {
            let note = (now, &self.queue, spoiled.reason(), spoiled.arrival.body.len());
            let note = rmp_serde::to_vec(&note).unwrap_or_default().into();
            Effect::AppendCapped(Key::Unreadable, note, limits::KEEP_OTHERS, limits::UNREADABLE_NOTES)
        };
        if !newest.is_empty() {
            let swap = Swap {
                writes: Vec::new(),
                effects: newest.iter().map(note).collect(),
            };
            self.pair.notes.say(swap, 0);
        }
    }
}
