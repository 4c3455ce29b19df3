//! What cannot be read is set aside, beside what else comes: whoever sends much of it must not slow down the
//! others. It counts as in hand until it is aside, so that RabbitMQ bounds how much there is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millhand_proto::{JobId, QueueName, limits};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Pair;
use super::changes::Change;
use super::queue::{Arrival, Generation, Outgoing};
use super::store::{Effect, Key, Swap};
use crate::backend::{Delivery, Pushed};

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
    /// The jobs, where that much can be read, and why not more.
    pub(super) bad: Vec<(Option<JobId>, String)>,
    /// What can be read of it.
    pub(super) delivery: Option<Delivery>,
    /// Whether it is aside, and only its jobs are not told to be dead.
    pub(super) aside: bool,
}

impl Spoiled {
    fn reason(&self) -> &str {
        self.bad.first().map_or("", |(_, why)| why)
    }
}

/// Who sets aside what comes to one subscription.
pub(super) struct Aside {
    pub(super) pair: Arc<Pair>,
    pub(super) queue: QueueName,
    pub(super) out: mpsc::Sender<Delivery>,
    /// The newest of its channels that was lost: what that and those before had delivered comes again.
    pub(super) lost: Arc<AtomicU64>,
}

impl Aside {
    /// Works until nothing more can come. What comes while enough is on its way goes together with the next; what
    /// a server does not take is tried again beside the others, which it does not hold up.
    pub(super) async fn run(self, mut came: mpsc::UnboundedReceiver<Spoiled>) {
        let (mut fresh, mut again, mut under_way) = (Vec::new(), Vec::new(), FuturesUnordered::new());
        let mut tries = interval(AGAIN);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                messages = came.recv_many(&mut fresh, BATCH), if under_way.len() < AT_ONCE => {
                    if messages == 0 {
                        // What is left comes to another worker.
                        break;
                    }
                    let bytes: usize = fresh.iter().map(|spoiled| spoiled.arrival.body.len()).sum();
                    let (queue, reason) = (&self.queue, fresh.first().map(Spoiled::reason));
                    tracing::warn!(%queue, messages, bytes, reason, "unreadable; set aside");
                    under_way.push(self.set_aside(std::mem::take(&mut fresh)));
                }
                Some(left) = under_way.next() => again.extend(left),
                _ = tries.tick(), if !again.is_empty() && under_way.len() <= AT_ONCE => {
                    let lost = self.lost.load(Ordering::SeqCst);
                    again.retain(|spoiled: &Spoiled| Generation::of(spoiled.arrival.id).0.0 > lost);
                    let some = again.drain(..again.len().min(BATCH)).collect();
                    under_way.push(self.set_aside(some));
                }
            }
        }
        while under_way.next().await.is_some() {}
    }

    /// Sets a batch aside, and lets go of it; answers what has to be tried again.
    async fn set_aside(&self, batch: Vec<Spoiled>) -> Vec<Spoiled> {
        let (mut aside, fresh): (Vec<_>, Vec<_>) = batch.into_iter().partition(|spoiled| spoiled.aside);
        let (fresh, mut again) = self.publish(fresh).await;
        self.note(&fresh);
        aside.extend(fresh);
        // Of those in which no job is known nothing has to be told.
        let nameless = aside.extract_if(.., |s| s.delivery.is_none() && s.bad.iter().all(|(id, _)| id.is_none()));
        self.pair.queue.acknowledge(nameless.map(|s| s.arrival.id).collect());
        let (told, untold) = self.tell(aside).await;
        again.extend(untold);
        let (whole, partly): (Vec<_>, Vec<_>) = told.into_iter().partition(|s| s.delivery.is_none());
        self.pair
            .queue
            .acknowledge(whole.into_iter().map(|s| s.arrival.id).collect());
        for delivery in partly.into_iter().filter_map(|spoiled| spoiled.delivery) {
            // What was lost meanwhile comes again.
            if self.pair.ledger.holds(delivery.id, delivery.parcel.jobs()[0].id()) {
                let _ = self.out.send(delivery).await;
            }
        }
        again
    }

    /// Publishes what is kept of them; answers those that are aside, and the others.
    async fn publish(&self, batch: Vec<Spoiled>) -> (Vec<Spoiled>, Vec<Spoiled>) {
        let bodies = batch.iter().map(|spoiled| &spoiled.arrival.body);
        let messages = bodies.map(Outgoing::unreadable).collect();
        let pushed = self.pair.queue.publish(messages).await;
        let (mut aside, mut refused, mut trouble) = (Vec::new(), Vec::new(), None);
        for (spoiled, pushed) in batch.into_iter().zip(pushed) {
            match pushed {
                Pushed::Accepted => aside.push(Spoiled { aside: true, ..spoiled }),
                Pushed::Rejected(why) | Pushed::Unknown(why) => {
                    trouble = Some(why);
                    refused.push(spoiled);
                }
            }
        }
        if let Some(error) = trouble {
            let (queue, messages) = (&self.queue, refused.len());
            tracing::warn!(%queue, error, messages, "unreadable messages could not be set aside; it is tried again");
        }
        (aside, refused)
    }

    /// Jobs whose ids could be read are dead. Answers the messages of which that is known now, and the others.
    async fn tell(&self, aside: Vec<Spoiled>) -> (Vec<Spoiled>, Vec<Spoiled>) {
        let change = |(id, reason): &(Option<JobId>, String)| {
            let (id, queue, reason) = ((*id)?, self.queue.clone(), reason.clone());
            Some(Change::Unreadable { id, queue, reason })
        };
        let of_each = |(at, spoiled): (usize, &Spoiled)| {
            let changes: Vec<_> = spoiled.bad.iter().filter_map(change).collect();
            changes.into_iter().map(move |change| (at, change))
        };
        let (whose, changes): (Vec<_>, Vec<_>) = aside.iter().enumerate().flat_map(of_each).unzip();
        let (mut untold, mut trouble) = (HashSet::new(), None);
        for (whose, changes) in whose.chunks(CHANGES).zip(changes.chunks(CHANGES)) {
            let told = self.pair.records.change(changes.to_vec()).await;
            for (at, error) in whose.iter().zip(told).filter_map(|(at, told)| Some((at, told.err()?))) {
                untold.insert(*at);
                trouble = Some(error);
            }
        }
        if let Some(error) = trouble {
            let (queue, messages) = (&self.queue, untold.len());
            tracing::warn!(%queue, %error, messages, "jobs in unreadable messages are not told to be dead; it is tried again");
        }
        let (untold, told): (Vec<_>, Vec<_>) = aside.into_iter().enumerate().partition(|(at, _)| untold.contains(at));
        let messages = |numbered: Vec<(usize, Spoiled)>| numbered.into_iter().map(|(_, spoiled)| spoiled).collect();
        (messages(told), messages(untold))
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
        let effects: Vec<_> = newest.iter().map(note).collect();
        if !effects.is_empty() {
            let bytes = effects.iter().map(Effect::bytes).sum();
            let writes = Vec::new();
            self.pair.notes.say(Swap { writes, effects }, bytes);
        }
    }
}
