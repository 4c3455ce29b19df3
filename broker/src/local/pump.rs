//! Deliveries: from the queue into a worker's hands, and which are there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Class, JobId, Parcel, QueueName, Timestamp, WorkerId};
use tokio::sync::{Notify, mpsc, watch};

use super::Local;
use super::engine::Engine;
use super::tables::CopyRow;
use crate::backend::{Consumer, Delivery, DeliveryId, Flow, Settlement, Subscription};
use crate::crash;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::unreadable::{Report, kept_because};

/// The longest that a pump looks away: a wake-up may get lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A delivery's row in the queue.
pub(super) fn row(delivery: DeliveryId) -> i64 {
    i64::try_from(delivery.0).unwrap_or(0)
}

#[derive(Debug)]
struct Held {
    by: WorkerId,
    left: HashSet<JobId>,
    class: Class,
    counts: Arc<Counts>,
}

/// Unsettled deliveries of one consumer, by class.
#[derive(Debug, Default)]
struct Counts {
    held: Mutex<[usize; 3]>,
    freed: Notify,
}

/// The deliveries in the hands of this process's workers, and those workers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: Mutex<HashMap<DeliveryId, Held>>,
    workers: Mutex<HashSet<WorkerId>>,
}

impl Ledger {
    pub(super) fn welcome(&self, worker: WorkerId) {
        lock(&self.workers).insert(worker);
    }

    pub(super) fn farewell(&self, worker: WorkerId) {
        lock(&self.workers).remove(&worker);
        lock(&self.held).retain(|_, held| held.by != worker);
    }

    pub(super) fn knows(&self, worker: WorkerId) -> bool {
        lock(&self.workers).contains(&worker)
    }

    /// The deliveries of which nothing is left once these are settled.
    pub(super) fn ending<'s>(&self, settlements: impl Iterator<Item = &'s Settlement>) -> Vec<DeliveryId> {
        let mut settled: HashMap<DeliveryId, HashSet<JobId>> = HashMap::new();
        for settlement in settlements {
            settled
                .entry(settlement.delivery)
                .or_default()
                .insert(settlement.copy.id());
        }
        let held = lock(&self.held);
        settled
            .into_iter()
            .filter(|(delivery, ids)| held.get(delivery).is_some_and(|held| held.left.is_subset(ids)))
            .map(|(delivery, _)| delivery)
            .collect()
    }

    /// Notes that a job of the delivery is settled; with its last one the delivery is gone.
    pub(super) fn settled(&self, delivery: DeliveryId, id: JobId) {
        let mut all = lock(&self.held);
        let Some(held) = all.get_mut(&delivery) else { return };
        held.left.remove(&id);
        if !held.left.is_empty() {
            return;
        }
        let Some(held) = all.remove(&delivery) else { return };
        drop(all);
        let at = usize::from(held.class.number());
        let mut counts = lock(&held.counts.held);
        counts[at] = counts[at].saturating_sub(1);
        drop(counts);
        held.counts.freed.notify_one();
    }

    fn hold(&self, by: WorkerId, delivery: DeliveryId, parcel: &Parcel, counts: &Arc<Counts>) {
        let left = parcel.jobs().iter().map(millhand_proto::JobCopy::id).collect();
        lock(&counts.held)[usize::from(parcel.class().number())] += 1;
        let held = Held {
            by,
            left,
            class: parcel.class(),
            counts: Arc::clone(counts),
        };
        lock(&self.held).insert(delivery, held);
    }
}

/// Starts to deliver, on the runtime of the caller.
pub(super) fn start(local: Arc<Local>, subscription: Subscription) -> Consumer {
    let (out, deliveries) = mpsc::channel(1024);
    let (flow, watched) = watch::channel(Flow::Open(subscription.prefetch));
    let (told, trouble) = watch::channel(None);
    let (seen, unreadable) = watch::channel(0);
    tokio::spawn(async move {
        let queue = subscription.queue.clone();
        let ends = Ends {
            out,
            flow: watched,
            trouble: told,
            unreadable: seen,
        };
        if let Err(error) = pump(&local, &subscription, ends).await {
            tracing::warn!(%queue, %error, "deliveries stopped");
        }
    });
    Consumer {
        deliveries,
        flow,
        trouble,
        unreadable,
    }
}

/// The other ends of a [`Consumer`].
struct Ends {
    out: mpsc::Sender<Delivery>,
    flow: watch::Receiver<Flow>,
    trouble: watch::Sender<Option<String>>,
    unreadable: watch::Sender<u64>,
}

impl Ends {
    /// Whether nobody wants deliveries any more.
    fn are_loose(&self) -> bool {
        self.out.is_closed() || self.flow.has_changed().is_err()
    }

    /// Asks until the file can be used, or nobody wants the answer: another process may hold its lock, or its
    /// disk may be full. What was taken must not be given up meanwhile: as long as this worker lives nobody
    /// else gets it.
    async fn insist<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match ask().await {
                Err(error @ Error::Unreachable { .. }) if !self.are_loose() => {
                    tracing::warn!(%error, "deliveries wait");
                    self.trouble.send_replace(Some(error.to_string()));
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                        () = self.out.closed() => {}
                    }
                }
                answer => {
                    self.trouble.send_if_modified(|trouble| trouble.take().is_some());
                    return answer;
                }
            }
        }
    }
}

async fn pump(local: &Local, subscription: &Subscription, mut ends: Ends) -> Result<()> {
    let counts = Arc::new(Counts::default());
    let deliver = async |deliveries: Vec<Delivery>| {
        for delivery in deliveries {
            let worker = subscription.worker;
            local.ledger.hold(worker, delivery.id, &delivery.parcel, &counts);
            crash::point("deliver.after");
            if ends.out.send(delivery).await.is_err() {
                return false;
            }
        }
        true
    };
    let mut report = Report::new(subscription.queue.clone());
    loop {
        report.say();
        // Registered before looking, so that no wake-up falls between looking and waiting.
        let work = local.board.work.notified();
        tokio::pin!(work);
        work.as_mut().enable();
        let prefetch = match *ends.flow.borrow_and_update() {
            Flow::Open(prefetch) => prefetch.max(1),
            Flow::Held => 0,
        };
        let free = lock(&counts.held).map(|held| prefetch.saturating_sub(held));
        let mut wait = LOOK_AGAIN;
        if free.iter().any(|free| *free > 0) {
            let (rows, next_due) = ends.insist(|| take(local, subscription, free)).await?;
            let full = !rows.is_empty();
            let (mut whole, mut spoiled, mut rest) = (Vec::new(), Vec::new(), Vec::new());
            for row in rows {
                let (delivery, bad) = open(&row, local.clock.now());
                if bad.is_empty() {
                    whole.extend(delivery);
                    continue;
                }
                let all = delivery.is_none();
                let (row, bytes) = (row.seq, row.body.len());
                spoiled.push(Spoiled { row, bytes, all, bad });
                rest.extend(delivery);
            }
            // First: these do not wait for what others sent.
            if !deliver(whole).await {
                return Ok(());
            }
            if !spoiled.is_empty() {
                ends.unreadable.send_modify(|seen| *seen += spoiled.len() as u64);
                let (queue, spoiled) = (&subscription.queue, Arc::new(spoiled));
                let reason = spoiled
                    .first()
                    .and_then(|s| s.bad.first())
                    .map_or("", |(_, why, _)| why);
                report.add(spoiled.len(), spoiled.iter().map(|s| s.bytes).sum(), reason);
                ends.insist(|| set_aside(local, queue, &spoiled)).await?;
            }
            if !deliver(rest).await {
                return Ok(());
            }
            if full {
                continue;
            }
            if let Some(due) = next_due {
                wait = wait.min(due.since(local.clock.now()).max(Duration::from_micros(500)));
            }
        }
        tokio::select! {
            () = &mut work => {}
            () = counts.freed.notified() => {}
            () = tokio::time::sleep(wait) => {}
            changed = ends.flow.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

async fn take(
    local: &Local,
    subscription: &Subscription,
    free: [usize; 3],
) -> Result<(Vec<CopyRow>, Option<Timestamp>)> {
    let (worker, queue) = (subscription.worker, subscription.queue.clone());
    let ledger = Arc::clone(&local.ledger);
    local
        .write(move |engine: &mut Engine<'_>| {
            let mut rows = Vec::new();
            if !ledger.knows(worker) || engine.tables.paused(queue.as_str())?.is_some() {
                return Ok((rows, None));
            }
            for class in Class::ALL {
                let free = free[usize::from(class.number())];
                if free > 0 {
                    rows.extend(engine.tables.take(&queue, class, worker, engine.now, free)?);
                }
            }
            let next = if rows.is_empty() {
                engine.tables.next_due(&queue)?
            } else {
                None
            };
            Ok((rows, next))
        })
        .await
}

/// What cannot be read of a row.
struct Spoiled {
    row: i64,
    /// So long it is.
    bytes: usize,
    /// Nothing of it can be.
    all: bool,
    bad: Vec<Bad>,
}

/// A job's id, where that much can be read, what is wrong with it, and its bytes.
type Bad = (Option<JobId>, String, Bytes);

/// Opens a parcel.
fn open(row: &CopyRow, taken_at: Timestamp) -> (Option<Delivery>, Vec<Bad>) {
    let (parcel, mut bad): (_, Vec<Bad>) = match Parcel::decode(&row.body) {
        Ok(opened) => {
            let bad = opened.bad.into_iter();
            (
                opened.parcel,
                bad.map(|b| (b.id, b.error.to_string(), b.bytes)).collect(),
            )
        }
        Err(error) => {
            let (kept, why) = kept_because(&row.body, &error.to_string());
            (None, vec![(None, why, kept)])
        }
    };
    let parcel = match parcel {
        // A row whose columns say something else than its parcel was not written by Millhand.
        Some(parcel) if parcel.queue().as_str() != row.queue || parcel.class().number() != row.class => {
            let why = format!("it is of queue {} and lay in {}", parcel.queue(), row.queue);
            // The bytes are kept once, with the first of its jobs.
            let bodies = std::iter::once(row.body.clone()).chain(std::iter::repeat(Bytes::new()));
            let jobs = parcel.jobs().iter().zip(bodies);
            bad.extend(jobs.map(|(job, body)| (Some(job.id()), why.clone(), body)));
            None
        }
        parcel => parcel,
    };
    bad.truncate(1024);
    let delivery = parcel.map(|parcel| Delivery {
        id: DeliveryId(u64::try_from(row.seq).unwrap_or(0)),
        parcel,
        redeliveries: row.redeliveries,
        ready_at: row.due,
        taken_at,
    });
    (delivery, bad)
}

/// Takes what cannot be read out of the queue, all of it together.
async fn set_aside(local: &Local, queue: &QueueName, spoiled: &Arc<Vec<Spoiled>>) -> Result<()> {
    let (queue, theirs) = (queue.clone(), Arc::clone(spoiled));
    let set_aside = local.write(move |engine: &mut Engine<'_>| {
        for spoiled in theirs.iter() {
            for (id, reason, body) in &spoiled.bad {
                engine.set_aside(queue.as_str(), *id, reason, body)?;
            }
            if spoiled.all {
                engine.tables.delete(spoiled.row)?;
            }
        }
        Ok(())
    });
    set_aside.await
}
