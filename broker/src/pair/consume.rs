//! Deliveries on their way from the queue to a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millhand_proto::{JobId, Parcel};
use tokio::sync::{mpsc, watch};

use super::Pair;
use super::aside::{Aside, Spoiled};
use super::queue::{Arrival, Arrivals, Arrived};
use crate::backend::{Consumer, Delivery, Flow, Subscription};
use crate::crash;
use crate::error::Result;

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
    let (aside, spoiled) = mpsc::unbounded_channel();
    let (seen, unreadable) = watch::channel(0);
    let lost = Arc::<AtomicU64>::default();
    let setting_aside = Aside {
        pair: Arc::clone(pair),
        queue: subscription.queue.clone(),
        out: sender.clone(),
        seen: seen.clone(),
        lost: Arc::clone(&lost),
    };
    tokio::spawn(setting_aside.run(spoiled));
    let pump = Pump {
        pair: Arc::clone(pair),
        subscription,
        out: sender,
        aside,
        unreadable: seen,
        lost,
    };
    tokio::spawn(pump.run(arrivals, watched, rules));
    Ok(Consumer {
        deliveries,
        flow,
        trouble,
        unreadable,
    })
}

struct Pump {
    pair: Arc<Pair>,
    subscription: Subscription,
    out: mpsc::Sender<Delivery>,
    /// What the channel holds bounds it.
    aside: mpsc::UnboundedSender<Spoiled>,
    unreadable: watch::Sender<u64>,
    /// The newest of the channels that were lost.
    lost: Arc<AtomicU64>,
}

impl Pump {
    async fn run(
        self,
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
                        self.lost.fetch_max(generation.0, Ordering::SeqCst);
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

    /// Opens a message; what cannot be read is set aside before the rest of it comes, and stops nobody.
    fn open(&self, arrival: Arrival) -> Option<Delivery> {
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
        self.unreadable.send_modify(|seen| *seen += 1);
        // Nobody is there when the worker is gone, and then it comes to another.
        let _ = self.aside.send(Spoiled {
            arrival,
            bad,
            delivery,
            aside: false,
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
}
