//! The reconciler: what found no route goes to its queue again; dead jobs whose record was lost are
//! remembered again. One worker at a time by a lease, for economy only: two are harmless.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Parcel, QueueName, WorkerId, limits};

use super::Pair;
use super::changes::{Change, Reply};
use super::control::bytes_of;
use super::queue::{Arrival, Outgoing, Route, Side};
use super::store::{Effect, Expected, Found, Key, Read, Swap, Swapped, Write};

use crate::backend::{Pushed, Rebuilt};
use crate::error::{Error, Result};

/// How long its lease lives: two looks and more.
const LEASE: Duration = Duration::from_secs(40);
/// Copies in one step.
const STEP: usize = 100;

impl Pair {
    /// Looks after the side queues, when this worker holds the lease.
    pub(super) async fn take_care(self: Arc<Self>, worker: WorkerId, queues: Vec<QueueName>) {
        if let Err(error) = self.care(worker, queues).await {
            tracing::debug!(%error, "lost and dead copies wait for the next look");
        }
    }

    async fn care(&self, worker: WorkerId, queues: Vec<QueueName>) -> Result<()> {
        if !self.is_caretaker(worker).await? {
            return Ok(());
        }
        let depths = self.queue.depths(queues.clone()).await?;
        let at = Bytes::copy_from_slice(&bytes_of(Some(self.store.now())));
        let empty = queues.iter().zip(depths).filter(|(_, depth)| *depth == 0);
        let seen: Vec<Effect> = empty
            .map(|(q, _)| Effect::Field(Key::Empty, q.to_string(), at.clone(), super::control::YEAR))
            .collect();
        if !seen.is_empty() {
            self.effects(seen).await?;
        }
        self.return_lost().await?;
        if self.rebuild_due.swap(false, std::sync::atomic::Ordering::SeqCst) {
            let rebuilt = self.rebuild_dead(&mut |_| true).await;
            if rebuilt.is_err() {
                self.rebuild_due.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            let rebuilt = rebuilt?;
            tracing::info!(
                looked_at = rebuilt.looked_at,
                remembered = rebuilt.remembered,
                "dead jobs were looked up in the dead queue"
            );
        }
        self.forget_workers().await
    }

    /// Takes the lease, or renews it.
    async fn is_caretaker(&self, worker: WorkerId) -> Result<bool> {
        let mine = *worker.as_bytes();
        let bytes = [&mine[..8], &mine[8..]].concat();
        let found = self
            .store
            .read(vec![Read::Get(Key::Caretaker)])
            .await?
            .pop()
            .and_then(Found::bytes);
        let expected = match found {
            None => Expected::Absent,
            Some(held) if held[..] == mine => Expected::Version(mine[..8].try_into().unwrap_or_default()),
            Some(_) => return Ok(false),
        };
        let write = Write {
            key: Key::Caretaker,
            expected,
            bytes: Some(bytes),
            keep: LEASE,
        };
        let swap = Swap {
            writes: vec![write],
            effects: Vec::new(),
        };
        let swapped = self.store.swap(vec![swap]).await?;
        Ok(matches!(swapped[..], [Swapped::Done]))
    }

    /// What found no route, or was delivered too often, goes to its queue, which is declared anew.
    pub(super) async fn return_lost(&self) -> Result<usize> {
        let mut returned = 0;
        loop {
            let lost = self.queue.take(Side::Lost, STEP).await?;
            let last = lost.len() < STEP;
            returned += lost.len();
            let messages = lost.iter().map(|arrival| {
                let Some(parcel) = self.opened(arrival) else {
                    return Outgoing::unreadable(&arrival.body);
                };
                tracing::warn!(queue = %parcel.queue(), jobs = parcel.jobs().len(), "a copy had found no way; it is sent again");
                let to = Route::back(&parcel.jobs()[0], Duration::ZERO);
                Outgoing::new(to, arrival.body.clone()).or_later()
            });
            self.move_on(messages.collect(), &lost).await?;
            if last {
                return Ok(returned);
            }
        }
    }

    /// Reads the dead queue through, once: a job without a record, or with one of a lower hand, is
    /// remembered; copies that are of use stay. `progress` hears how many were looked at, and
    /// answers whether to go on.
    pub(super) async fn rebuild_dead(&self, progress: &mut (dyn FnMut(usize) -> bool + Send)) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        let whole = usize::try_from(self.queue.depth_of(Side::Dead).await?).unwrap_or(usize::MAX);
        while rebuilt.looked_at < whole && progress(rebuilt.looked_at) {
            let step = STEP.min(whole - rebuilt.looked_at);
            let copies = self.queue.take(Side::Dead, step).await?;
            if copies.is_empty() {
                break;
            }
            rebuilt.looked_at += copies.len();
            let mut messages = Vec::new();
            for arrival in &copies {
                let Some(parcel) = self.opened(arrival) else {
                    messages.push(Outgoing::unreadable(&arrival.body));
                    continue;
                };
                let age = arrival
                    .published_at
                    .map_or(Duration::ZERO, |at| self.store.now().since(at));
                let left = limits::KEEP_OTHERS.saturating_sub(age).max(Duration::from_secs(60));
                for copy in parcel.into_jobs() {
                    let known = self.views(&[copy.id()]).await?.pop().flatten();
                    let body: Bytes = Parcel::of(copy.clone()).encode().into();
                    let change = Change::Dead {
                        copy,
                        body: body.clone(),
                    };
                    if self.records.one(change).await? == Reply::Confirmed(true) {
                        rebuilt.remembered += usize::from(known.is_none());
                        let to = Route::Side(Side::Dead, Some(left));
                        messages.push(Outgoing::new(to, body));
                    }
                }
            }
            self.move_on(messages, &copies).await?;
        }
        Ok(rebuilt)
    }

    /// Published, then acknowledged; never put back, which would count as a failed delivery.
    async fn move_on(&self, messages: Vec<Outgoing>, taken: &[Arrival]) -> Result<()> {
        for pushed in self.queue.publish(messages).await {
            if let Pushed::Rejected(why) | Pushed::Unknown(why) = pushed {
                return Err(Error::unreachable(&self.queue.place(), why));
            }
        }
        self.queue.acknowledge(taken.iter().map(|arrival| arrival.id).collect());
        Ok(())
    }

    fn opened(&self, arrival: &Arrival) -> Option<Parcel> {
        Parcel::decode(&arrival.body).ok()?.parcel
    }
}
