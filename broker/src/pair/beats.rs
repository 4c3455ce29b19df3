//! Workers as the store knows them: one lease for each boot, with what the worker says of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use millhand_proto::{JobId, QueueName, Timestamp, WorkerId, limits};
use serde::{Deserialize, Serialize};

use super::Pair;
use super::changes::Change;
use super::store::{Effect, Found, Key, Read};
use crate::error::Result;
use crate::view::WorkerBeat;

/// Running jobs that a beat names.
const NAMED: usize = 1000;

/// What a worker's lease says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Said {
    #[serde(rename = "b")]
    pub(super) beat: WorkerBeat,
    #[serde(rename = "a")]
    pub(super) at: Timestamp,
    /// Jobs in its hands, by queue.
    #[serde(rename = "h", default)]
    pub(super) held: Vec<(QueueName, u64)>,
    /// Of each queue, since when its newest delivery was ready.
    #[serde(rename = "r", default)]
    pub(super) reached: Vec<(QueueName, Timestamp)>,
    /// Jobs that it runs, as far as they are named.
    #[serde(rename = "j", default)]
    pub(super) running: Vec<JobId>,
}

impl Pair {
    /// Says that a worker lives; answers which of its queues are paused.
    pub(super) async fn beat_once(&self, beat: WorkerBeat) -> Result<Vec<QueueName>> {
        let epoch = self.store.pulse().await?;
        if self.trust.beat(self.store.connections(), epoch) {
            tracing::warn!(
                store = self.store.place(),
                "the store was restarted or lost its memory; what runs here is written again"
            );
            self.restore_due.store(true, Ordering::SeqCst);
            self.rebuild_due.store(true, Ordering::SeqCst);
        }
        let forgotten = self.restore_due.load(Ordering::SeqCst);
        let now = self.store.now();
        let (worker, queues) = (beat.worker, beat.queues.clone());
        let said = Said {
            beat,
            at: now,
            held: self.ledger.by_queue(),
            reached: self.ledger.reached(),
            running: self.ledger.running(NAMED),
        };
        if forgotten {
            self.registry.clear();
        }
        let mut effects = vec![lease(worker, &said)];
        effects.extend(self.registry.note(Key::Workers, &worker.to_string(), now));
        effects.extend(
            queues
                .iter()
                .filter_map(|q| self.registry.note(Key::Queues, q.as_str(), now)),
        );
        self.effects(effects).await?;
        if forgotten && self.restore().await {
            self.restore_due.store(false, Ordering::SeqCst);
        }
        let rules = self.rules().await?;
        Ok(queues.into_iter().filter(|q| rules.paused(q).is_some()).collect())
    }

    /// Writes again what this process wrote and still holds. Answers whether all of it is.
    async fn restore(&self) -> bool {
        let written = self.records.written();
        let changes = written.into_iter().map(|(key, record)| Change::Restore { key, record });
        let restored = self.records.change(changes.collect()).await;
        let failed = restored.into_iter().find_map(Result::err);
        if let Some(error) = &failed {
            tracing::warn!(%error, "records could not be written again; the next beat tries");
        }
        failed.is_none()
    }

    /// Makes a worker known before its first beat.
    pub(super) async fn welcome(&self, worker: WorkerId, queue: &QueueName) -> Result<()> {
        let now = self.store.now();
        let beat = WorkerBeat::new(worker, now, vec![queue.clone()]);
        let said = Said {
            beat,
            at: now,
            held: Vec::new(),
            reached: Vec::new(),
            running: Vec::new(),
        };
        let mut effects = vec![lease(worker, &said)];
        effects.extend(self.registry.note(Key::Workers, &worker.to_string(), now));
        effects.extend(self.registry.note(Key::Queues, queue.as_str(), now));
        self.effects(effects).await
    }

    pub(super) async fn farewell(&self, worker: WorkerId) -> Result<()> {
        let effects = vec![
            Effect::Delete(Key::Lease(worker)),
            Effect::Unfield(Key::Workers, worker.to_string()),
        ];
        self.effects(effects).await
    }

    /// What the workers that live say of themselves. Those that died are taken off the list.
    pub(super) async fn said(&self) -> Result<Vec<(WorkerId, Said)>> {
        let found = self.store.read(vec![Read::Fields(Key::Workers)]).await?.pop();
        let names = found.map(Found::fields).unwrap_or_default();
        let workers: Vec<WorkerId> = names.iter().filter_map(|(name, _)| WorkerId::parse(name)).collect();
        if workers.is_empty() {
            return Ok(Vec::new());
        }
        let reads = workers.iter().map(|worker| Read::Get(Key::Lease(*worker))).collect();
        let leases = self.store.read(reads).await?;
        let said = workers.into_iter().zip(leases).filter_map(|(worker, found)| {
            // What cannot be read is of another build; the worker lives all the same.
            Some((worker, rmp_serde::from_slice::<Said>(&found.bytes()?).ok()?))
        });
        Ok(said.collect())
    }

    /// Takes workers off the list that have not beaten for a day.
    pub(super) async fn forget_workers(&self) -> Result<()> {
        let found = self.store.read(vec![Read::Fields(Key::Workers)]).await?.pop();
        let now = self.store.now();
        let old = found
            .map(Found::fields)
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, at)| super::control::time(at).is_none_or(|at| now.since(at) > Duration::from_secs(24 * 3600)));
        let effects: Vec<_> = old.map(|(name, _)| Effect::Unfield(Key::Workers, name)).collect();
        if effects.is_empty() {
            return Ok(());
        }
        self.effects(effects).await
    }
}

fn lease(worker: WorkerId, said: &Said) -> Effect {
    // The encoder of these types has no way to fail.
    let bytes = rmp_serde::to_vec_named(said).unwrap_or_default();
    Effect::Put(Key::Lease(worker), bytes.into(), limits::LEASE)
}
