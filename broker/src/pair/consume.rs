//! Deliveries on their way from the queue to a worker.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::{JobId, Parcel, limits};
use tokio::sync::{mpsc, watch};

use super::Pair;
use super::changes::Change;
use super::queue::{Arrival, Arrivals, Arrived, Route, Side};
use super::store::{Effect, Key};
use crate::backend::{Consumer, Delivery, Flow, Subscription};
use crate::crash;
use crate::error::Result;

/// The pause between two tries to set something aside.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes that are kept of a message that is longer than one may be: RabbitMQ would not get it from here.
const KEPT: usize = 64 << 10;

/// Starts to deliver, on the runtime of the caller.
pub(super) async fn start(pair: &Arc<Pair>, subscription: Subscription) -> Result<Consumer> {
    pair.hearing.get_or_try_init(|| pair.hear()).await?;
    pair.welcome(subscription.worker, &subscription.queue).await?;
    let rules = pair.rules.subscribe();
    let paused = rules.borrow().paused(&subscription.queue).is_some();
    let arrivals = pair.queue.consume(subscription.clone(), paused).await?;
    let trouble = arrivals.trouble.clone();
    let (sender, deliveries) = mpsc::channel(1024);
    let (flow, watched) = watch::channel(Flow::Open(subscription.prefetch));
    let pump = Arc::new(Pump {
        pair: Arc::clone(pair),
        subscription,
        out: sender,
    });
    tokio::spawn(pump.run(arrivals, watched, rules));
    Ok(Consumer {
        deliveries,
        flow,
        trouble,
    })
}

struct Pump {
    pair: Arc<Pair>,
    subscription: Subscription,
    out: mpsc::Sender<Delivery>,
}

impl Pump {
    async fn run(
        self: Arc<Self>,
        mut arrivals: Arrivals,
        mut flow: watch::Receiver<Flow>,
        mut rules: watch::Receiver<super::control::Rules>,
    ) {
        loop {
            tokio::select! {
                arrived = arrivals.arrived.recv() => match arrived {
                    Some(Arrived::Message(arrival)) => {
                        let opened = self.open(arrival);
                        crash::point("deliver.after");
                        if let Some(delivery) = opened
                            && self.out.send(delivery).await.is_err()
                        {
                            return;
                        }
                    }
                    Some(Arrived::Lost(generation)) => {
                        let parcels = self.pair.ledger.lost(generation);
                        tracing::debug!(queue = %self.subscription.queue, parcels, "a channel is gone; what it delivered comes again");
                    }
                    None => return,
                },
                changed = flow.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.set(&arrivals, &mut flow, &mut rules);
                }
                changed = rules.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.set(&arrivals, &mut flow, &mut rules);
                }
            }
        }
    }

    /// A paused queue delivers nothing, whatever its worker wants.
    fn set(
        &self,
        arrivals: &Arrivals,
        flow: &mut watch::Receiver<Flow>,
        rules: &mut watch::Receiver<super::control::Rules>,
    ) {
        let paused = rules.borrow_and_update().paused(&self.subscription.queue).is_some();
        let wanted = *flow.borrow_and_update();
        let flow = if paused { Flow::Held } else { wanted };
        arrivals.flow.send_if_modified(|now| {
            let changed = *now != flow;
            *now = flow;
            changed
        });
    }

    /// Opens a message; what cannot be read is set aside first, and stops nobody.
    fn open(self: &Arc<Self>, arrival: Arrival) -> Option<Delivery> {
        let queue = &self.subscription.queue;
        let mut bad: Vec<(Option<JobId>, String)> = Vec::new();
        let parcel = match Parcel::decode(&arrival.body) {
            Ok(opened) => {
                bad.extend(opened.bad.into_iter().map(|b| (b.id, b.error.to_string())));
                opened.parcel
            }
            Err(error) => {
                bad.push((None, error.to_string()));
                None
            }
        };
        let parcel = match parcel {
            Some(parcel) if parcel.queue() != queue => {
                let why = format!("it is of queue {} and lay in {queue}", parcel.queue());
                bad.extend(parcel.jobs().iter().map(|job| (Some(job.id()), why.clone())));
                None
            }
            parcel => parcel,
        };
        let delivery = parcel.map(|parcel| self.held(&arrival, parcel));
        if bad.is_empty() {
            return delivery;
        }
        // Beside what else comes: whoever sends much of this must not slow down the others. It counts as in hand
        // until it is aside, so that RabbitMQ bounds how many there are.
        let pump = Arc::clone(self);
        tokio::spawn(async move {
            let reason = bad.first().map(|(_, why)| why.clone()).unwrap_or_default();
            let bytes = arrival.body.len();
            if !pump.set_aside(&arrival, &reason, bad).await {
                return;
            }
            match delivery {
                None => pump.pair.queue.acknowledge(vec![arrival.id]),
                // What was lost meanwhile comes again.
                Some(delivery) => {
                    if pump.pair.ledger.holds(delivery.id, delivery.parcel.jobs()[0].id()) {
                        let _ = pump.out.send(delivery).await;
                    }
                }
            }
            drop(arrival);
            // Only to be looked at: nothing waits for it.
            pump.note(&reason, bytes).await;
        });
        None
    }

    /// A parcel that can be read, in hand from now on.
    fn held(&self, arrival: &Arrival, parcel: Parcel) -> Delivery {
        let enqueued_at = parcel.jobs()[0].core.enqueued_at;
        let due = parcel.due().unwrap_or(enqueued_at);
        let ready_at = due
            .max(arrival.published_at.unwrap_or(enqueued_at))
            .min(arrival.taken_at);
        let (first, worker) = (arrival.redeliveries == 0, self.subscription.worker);
        self.pair.ledger.hold(arrival.id, &parcel, worker, first, ready_at);
        Delivery {
            id: arrival.id,
            parcel,
            redeliveries: arrival.redeliveries,
            ready_at,
            taken_at: arrival.taken_at,
        }
    }

    /// Answers whether it is; not so when the worker is gone, and then it comes to another.
    async fn set_aside(&self, arrival: &Arrival, reason: &str, bad: Vec<(Option<JobId>, String)>) -> bool {
        let (pair, queue) = (&self.pair, &self.subscription.queue);
        tracing::warn!(%queue, reason, jobs = bad.len(), bytes = arrival.body.len(), "unreadable; set aside");
        let kept = if arrival.body.len() > limits::MESSAGE_BYTES {
            arrival.body.slice(..KEPT)
        } else {
            arrival.body.clone()
        };
        let aside = || pair.publish_one(Route::Side(Side::Unreadable, None), kept.clone());
        while let Err(error) = aside().await {
            tracing::warn!(%queue, %error, "an unreadable message could not be set aside; it is tried again");
            if self.out.is_closed() {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        let changes = bad.into_iter().filter_map(|(id, reason)| {
            Some(Change::Unreadable {
                id: id?,
                queue: queue.clone(),
                reason,
            })
        });
        let told = pair.records.change(changes.collect()).await;
        if let Some(error) = told.into_iter().find_map(Result::err) {
            tracing::debug!(%queue, %error, "a job in an unreadable message is not told to be dead");
        }
        true
    }

    /// Leaves word that something was set aside.
    async fn note(&self, reason: &str, bytes: usize) {
        let (pair, queue) = (&self.pair, &self.subscription.queue);
        let note = rmp_serde::to_vec(&(pair.store.now(), queue, reason, bytes)).unwrap_or_default();
        let effect = Effect::AppendCapped(
            Key::Unreadable,
            note.into(),
            limits::KEEP_OTHERS,
            limits::UNREADABLE_NOTES,
        );
        if let Err(error) = pair.effects(vec![effect]).await {
            tracing::debug!(%queue, %error, "an unreadable message is set aside, and not shown");
        }
    }
}
