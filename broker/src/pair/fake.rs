//! A queue in memory, for tests of the pair alone: it loses what it is told to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millhand_proto::{Class, QueueName, WorkerId};
use tokio::sync::{Notify, mpsc, watch};

use super::queue::{Arrival, Arrivals, Arrived, Generation, Outgoing, Queue, Route, Side};
use crate::backend::{BoxFuture, DeliveryId, Flow, Pushed, Subscription};
use crate::clock::Clock;
use crate::error::Result;

#[derive(Clone, Debug)]
struct Message {
    body: bytes::Bytes,
    redeliveries: u32,
}

#[derive(Debug, Default)]
struct State {
    ready: HashMap<QueueName, VecDeque<(Class, Message)>>,
    side: HashMap<Side, VecDeque<Message>>,
    held: HashMap<DeliveryId, (WorkerId, QueueName, Class, Message)>,
    taken: HashMap<DeliveryId, (Side, Message)>,
    /// Workers that left take nothing more.
    left: HashSet<WorkerId>,
    /// The next so many messages are not taken.
    refuse: usize,
}

#[derive(Debug, Default)]
pub(crate) struct FakeQueue {
    state: Mutex<State>,
    next: AtomicU64,
    work: Notify,
    me: Mutex<std::sync::Weak<FakeQueue>>,
}

impl FakeQueue {
    pub(crate) fn new() -> Arc<Self> {
        let queue = Arc::new(Self::default());
        *queue.me.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&queue);
        queue
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next so many messages are not taken.
    pub(crate) fn refuse(&self, messages: usize) {
        self.state().refuse = messages;
    }

    /// Messages that are neither settled nor thrown away.
    pub(crate) fn copies(&self) -> usize {
        let state = self.state();
        state.ready.values().map(VecDeque::len).sum::<usize>() + state.held.len()
    }

    fn put(&self, queue: QueueName, class: Class, message: Message) {
        self.state().ready.entry(queue).or_default().push_back((class, message));
        self.work.notify_waiters();
    }

    fn delivery(&self) -> DeliveryId {
        Generation(1).delivery(self.next.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn next(&self, subscription: &Subscription) -> Option<Arrival> {
        let mut state = self.state();
        if state.left.contains(&subscription.worker) {
            return None;
        }
        let (class, message) = state.ready.get_mut(&subscription.queue)?.pop_front()?;
        let id = self.delivery();
        let held = (subscription.worker, subscription.queue.clone(), class, message.clone());
        state.held.insert(id, held);
        Some(arrival(id, message))
    }
}

fn arrival(id: DeliveryId, message: Message) -> Arrival {
    Arrival {
        id,
        body: message.body,
        redeliveries: message.redeliveries,
        published_at: None,
        taken_at: Clock::system().now(),
    }
}

impl Queue for FakeQueue {
    fn place(&self) -> String {
        "fake".into()
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Pushed>> {
        let me = self.me.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let answers = messages.into_iter().map(|Outgoing { to, body }| {
            let mut state = self.state();
            if state.refuse > 0 {
                state.refuse -= 1;
                return Pushed::Unknown("refused by the test".into());
            }
            drop(state);
            let message = Message { body, redeliveries: 0 };
            match to {
                Route::Work(queue, class) => self.put(queue, class, message),
                Route::Later(queue, class, wait, _) => {
                    let me = me.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        me.inspect(|me| me.put(queue, class, message));
                    });
                }
                Route::Side(side, _) => self.state().side.entry(side).or_default().push_back(message),
            }
            Pushed::Accepted
        });
        let answers = answers.collect();
        Box::pin(async { answers })
    }

    fn consume(&self, subscription: Subscription, held: bool) -> BoxFuture<'_, Result<Arrivals>> {
        let me = self.me.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let (out, arrived) = mpsc::channel(64);
        let start = if held {
            Flow::Held
        } else {
            Flow::Open(subscription.prefetch)
        };
        let (flow, mut flows) = watch::channel(start);
        tokio::spawn(async move {
            let Some(me) = me else { return };
            loop {
                let work = me.work.notified();
                tokio::pin!(work);
                work.as_mut().enable();
                let open = *flows.borrow_and_update() != Flow::Held;
                while let Some(arrival) = open.then(|| me.next(&subscription)).flatten() {
                    let _ = out.send(Arrived::Message(arrival)).await;
                }
                tokio::select! {
                    () = work => {}
                    changed = flows.changed() => if changed.is_err() { return },
                }
            }
        });
        Box::pin(async { Ok(Arrivals { arrived, flow }) })
    }

    fn acknowledge(&self, deliveries: Vec<DeliveryId>) {
        let mut state = self.state();
        for id in deliveries {
            state.held.remove(&id);
            state.taken.remove(&id);
        }
    }

    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, ()> {
        self.state().left.insert(worker);
        let gone: Vec<_> = self.state().held.extract_if(|_, held| held.0 == worker).collect();
        for (_, (_, queue, class, mut message)) in gone {
            message.redeliveries += 1;
            self.put(queue, class, message);
        }
        Box::pin(async {})
    }

    fn depths(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Vec<u64>>> {
        let state = self.state();
        let depth = |queue: &QueueName| state.ready.get(queue).map_or(0, VecDeque::len) as u64;
        let depths = queues.iter().map(depth).collect();
        Box::pin(async { Ok(depths) })
    }

    fn purge(&self, queue: QueueName) -> BoxFuture<'_, Result<u64>> {
        let purged = self.state().ready.remove(&queue).map_or(0, |ready| ready.len()) as u64;
        Box::pin(async move { Ok(purged) })
    }

    fn take(&self, from: Side, most: usize) -> BoxFuture<'_, Result<Vec<Arrival>>> {
        let mut state = self.state();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(message) = state.side.entry(from).or_default().pop_front()
        {
            let id = self.delivery();
            state.taken.insert(id, (from, message.clone()));
            taken.push(arrival(id, message));
        }
        Box::pin(async { Ok(taken) })
    }

    fn depth_of(&self, side: Side) -> BoxFuture<'_, Result<u64>> {
        let depth = self.state().side.get(&side).map_or(0, VecDeque::len) as u64;
        Box::pin(async move { Ok(depth) })
    }
}
