//! What this process has in its hands: deliveries until each of their jobs is settled, and runs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use millhand_proto::{JobCopy, JobId, Parcel, QueueName, Record, RecordKey, Timestamp, WorkerId};

use super::queue::Generation;
use super::records::Records;
use crate::backend::DeliveryId;
use crate::lock::lock;

#[derive(Debug)]
struct Held {
    left: HashSet<JobId>,
    key: RecordKey,
    queue: QueueName,
    worker: WorkerId,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<DeliveryId, Held>,
    runs: HashMap<JobId, RecordKey>,
    /// Of each queue, since when the newest delivery was ready: those behind it are younger.
    reached: HashMap<QueueName, Timestamp>,
}

/// Deliveries and runs, and through them which records are worth remembering.
#[derive(Debug)]
pub(super) struct Ledger {
    state: Mutex<State>,
    records: Arc<Records>,
}

impl Ledger {
    pub(super) fn new(records: Arc<Records>) -> Self {
        let state = Mutex::default();
        Self { state, records }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A parcel came. On its first delivery its record is what an enqueue makes of it.
    pub(super) fn hold(
        &self,
        delivery: DeliveryId,
        parcel: &Parcel,
        worker: WorkerId,
        first: bool,
        ready_at: Timestamp,
    ) {
        let copy = &parcel.jobs()[0];
        let key = copy.id().record_at(copy.hop.hand);
        let untouched = parcel
            .jobs()
            .iter()
            .all(|job| job.hop == millhand_proto::Hop::default());
        self.records.hold(key, (first && untouched).then(|| accepted(parcel)));
        let held = Held {
            left: parcel.jobs().iter().map(JobCopy::id).collect(),
            key,
            queue: parcel.queue().clone(),
            worker,
        };
        let mut state = self.state();
        // Who looks after a run passes those that wait.
        if copy.hop.busy == 0 {
            let reached = state.reached.entry(held.queue.clone()).or_default();
            *reached = ready_at.max(*reached);
        }
        state.held.insert(delivery, held);
    }

    pub(super) fn holds(&self, delivery: DeliveryId, id: JobId) -> bool {
        self.state()
            .held
            .get(&delivery)
            .is_some_and(|held| held.left.contains(&id))
    }

    /// Notes that jobs are settled; answers the deliveries of which nothing is left.
    pub(super) fn settled(&self, jobs: impl IntoIterator<Item = (DeliveryId, JobId)>) -> Vec<DeliveryId> {
        let mut state = self.state();
        let mut ended = Vec::new();
        for (delivery, id) in jobs {
            let Some(held) = state.held.get_mut(&delivery) else {
                continue;
            };
            held.left.remove(&id);
            if held.left.is_empty()
                && let Some(held) = state.held.remove(&delivery)
            {
                self.records.release(held.key);
                ended.push(delivery);
            }
        }
        ended
    }

    fn forget(&self, which: impl Fn(DeliveryId, &Held) -> bool) -> usize {
        let gone: Vec<Held> = self
            .state()
            .held
            .extract_if(|id, held| which(*id, held))
            .map(|(_, h)| h)
            .collect();
        for held in &gone {
            self.records.release(held.key);
        }
        gone.len()
    }

    /// A channel is gone: what it delivered comes again.
    pub(super) fn lost(&self, generation: Generation) -> usize {
        self.forget(|id, _| Generation::of(id).0 == generation)
    }

    pub(super) fn left(&self, worker: WorkerId) {
        self.forget(|_, held| held.worker == worker);
    }

    pub(super) fn runs(&self, copy: &JobCopy) {
        let key = copy.id().record_at(copy.hop.hand);
        if self.state().runs.insert(copy.id(), key).is_none() {
            self.records.hold(key, None);
        }
    }

    pub(super) fn ran(&self, id: JobId) {
        let key = self.state().runs.remove(&id);
        if let Some(key) = key {
            self.records.release(key);
        }
    }

    pub(super) fn running(&self, most: usize) -> Vec<JobId> {
        self.state().runs.keys().take(most).copied().collect()
    }

    /// Jobs in hands by queue.
    pub(super) fn by_queue(&self) -> Vec<(QueueName, u64)> {
        let mut jobs: HashMap<QueueName, u64> = HashMap::new();
        for held in self.state().held.values() {
            *jobs.entry(held.queue.clone()).or_default() += held.left.len() as u64;
        }
        jobs.into_iter().collect()
    }

    pub(super) fn reached(&self) -> Vec<(QueueName, Timestamp)> {
        self.state().reached.iter().map(|(q, t)| (q.clone(), *t)).collect()
    }

    /// Deliveries in hands of these queues, of all when there are none.
    pub(super) fn count(&self, queues: &[QueueName]) -> usize {
        let state = self.state();
        let held = state.held.values();
        held.filter(|h| queues.is_empty() || queues.contains(&h.queue)).count()
    }
}

/// What an enqueue writes of a parcel: it follows from the parcel alone.
pub(super) fn accepted(parcel: &Parcel) -> Record {
    let mut record = Record::new(parcel.queue().clone(), parcel.class());
    record.entries = parcel.jobs().iter().map(millhand_proto::Entry::accepted).collect();
    record
}
