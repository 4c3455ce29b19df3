//! What waits to be published, and what became of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millhand_proto::limits;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use super::link::Link;
use super::names;
use super::topology::Thing;
use crate::backend::Pushed;
use crate::lock::lock;
use crate::pair::queue::{Outgoing, Route};

/// Messages of a window.
const WINDOW: usize = 128;
/// What a message takes beside its body.
const OVERHEAD: usize = 256;
/// How long the ladder carries what a full queue refused.
const DETOUR: Duration = Duration::from_secs(4);

/// Nobody has sent it.
const WAITING: u8 = 0;
/// It may be there.
const SENT: u8 = 1;
/// Its caller has gone: it must not be sent.
const GIVEN_UP: u8 = 2;

/// A message on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Outgoing,
    stage: Arc<AtomicU8>,
    /// It went out, and what became of that is not known.
    in_doubt: bool,
    answer: oneshot::Sender<Pushed>,
    _room: OwnedSemaphorePermit,
}

impl Item {
    /// Whether it may be sent; from now on its caller says *unknown* when the time is up.
    pub(super) fn may_go(&self) -> bool {
        let claimed = self
            .stage
            .compare_exchange(WAITING, SENT, Ordering::SeqCst, Ordering::SeqCst);
        claimed.map_or_else(|now| now == SENT, |_| true) && self.is_wanted()
    }

    /// Whether somebody still waits for what becomes of it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Where it goes first: of the ladder, the one level on which it waits first.
    pub(super) fn way(&self) -> Thing {
        match &self.message.to {
            Route::Work(queue, class) => Thing::Work(queue.clone(), *class),
            Route::Later(_, _, wait, coarse) => Thing::Ladder(names::highest(names::seconds(*wait, *coarse))),
            Route::Side(side, _) => Thing::Side(*side),
        }
    }

    /// What became of it is not known.
    pub(super) fn in_doubt(self) -> Self {
        Self { in_doubt: true, ..self }
    }

    /// Its queue is full: the ladder takes it.
    pub(super) fn later(mut self) -> Self {
        if let Route::Work(queue, class) = self.message.to {
            self.message.to = Route::Later(queue, class, DETOUR, true);
        }
        self
    }

    pub(super) fn accept(self) {
        let _ = self.answer.send(Pushed::Accepted);
    }

    /// It was refused; unless an earlier copy of it may be there.
    pub(super) fn refuse(self, why: String) {
        let _ = self.answer.send(if self.in_doubt {
            Pushed::Unknown(why)
        } else {
            Pushed::Rejected(why)
        });
    }

    /// It was refused, and no earlier copy of it can be there.
    pub(super) fn reject(self, why: String) {
        let _ = self.answer.send(Pushed::Rejected(why));
    }
}

/// Why nothing goes a way beside other messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closed {
    /// Something was not confirmed in time.
    #[default]
    Suspected,
    /// Nor was it when it went alone.
    Silent,
}

/// What was not confirmed in time.
#[derive(Debug, Default)]
struct Stuck {
    /// By their ways, so that one that leads to a queue that confirms nothing is found, and goes alone.
    ways: VecDeque<(Thing, VecDeque<Item>)>,
    /// Ways on which something was not confirmed, until something is.
    closed: HashMap<Thing, Closed>,
}

impl Stuck {
    fn add(&mut self, item: Item) {
        let way = item.way();
        match self.ways.iter_mut().find(|(known, _)| *known == way) {
            Some((_, items)) => items.push_back(item),
            None => self.ways.push_back((way, VecDeque::from([item]))),
        }
    }
}

/// The messages that wait to be published.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Item>>,
    came: Notify,
    stuck: Mutex<Stuck>,
    stuck_came: Notify,
    room: Arc<Semaphore>,
    pub(super) link: Arc<Link>,
}

impl Outbox {
    pub(super) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            came: Notify::new(),
            stuck: Mutex::default(),
            stuck_came: Notify::new(),
            room: Arc::new(Semaphore::new(limits::PUBLISH_BYTES)),
            link,
        })
    }

    /// Hands messages in and waits for what becomes of each.
    pub(super) async fn publish(self: Arc<Self>, messages: Vec<Outgoing>) -> Vec<Pushed> {
        let mut over = std::pin::pin!(sleep_until(Instant::now() + limits::PUBLISH));
        let mut pending = Vec::with_capacity(messages.len());
        for message in messages {
            let bytes = message.body.len();
            if bytes > limits::MESSAGE_BYTES {
                let limit = limits::MESSAGE_BYTES;
                pending.push(Err(format!("the message has {bytes} bytes; the limit is {limit}")));
                continue;
            }
            let Some(room) = self.room(bytes, over.as_mut()).await else {
                let why = self.why().unwrap_or_else(|| "RabbitMQ is too slow to take them".into());
                let full = limits::PUBLISH_BYTES >> 20;
                pending.push(Err(format!("{full} MiB wait to be published already: {why}")));
                continue;
            };
            let (answer, answered) = oneshot::channel();
            let stage = Arc::new(AtomicU8::new(WAITING));
            pending.push(Ok((Arc::clone(&stage), answered)));
            let item = Item {
                message,
                stage,
                in_doubt: false,
                answer,
                _room: room,
            };
            lock(&self.waiting).push_back(item);
        }
        self.came.notify_one();
        let mut answers = Vec::with_capacity(pending.len());
        for entry in pending {
            answers.push(match entry {
                Err(why) => Pushed::Rejected(why),
                Ok((stage, answered)) => tokio::select! {
                    biased;
                    answer = answered => answer.unwrap_or_else(|_| self.too_late(&stage)),
                    () = over.as_mut() => self.too_late(&stage),
                },
            });
        }
        answers
    }

    /// Room for a message, unless there is none in time.
    async fn room(&self, bytes: usize, over: std::pin::Pin<&mut tokio::time::Sleep>) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes + OVERHEAD).ok()?;
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            return Some(room);
        }
        // Nobody waits for these any more.
        lock(&self.waiting).retain(Item::is_wanted);
        for (_, items) in &mut lock(&self.stuck).ways {
            items.retain(Item::is_wanted);
        }
        self.came.notify_one();
        tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(bytes) => room.ok(),
            () = over => None,
        }
    }

    /// Why nothing can be sent now, where that is known.
    pub(super) fn why(&self) -> Option<String> {
        self.link.why()
    }

    /// The time is up: it must not be sent any more, if it has not been.
    fn too_late(&self, stage: &AtomicU8) -> Pushed {
        let given_up = stage.compare_exchange(WAITING, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst);
        let why = self.why();
        match given_up {
            Ok(_) => Pushed::Rejected(why.unwrap_or_else(|| "RabbitMQ is too slow to take it".into())),
            Err(_) => Pushed::Unknown(why.unwrap_or_else(|| "RabbitMQ did not confirm it in time".into())),
        }
    }

    /// As many as go out together, when there are some.
    pub(super) async fn take(&self) -> Vec<Item> {
        loop {
            let came = self.came.notified();
            let mut window: Vec<Item> = {
                let mut waiting = lock(&self.waiting);
                let count = waiting.len().min(WINDOW);
                let window = waiting.drain(..count).collect();
                if !waiting.is_empty() {
                    self.came.notify_one();
                }
                window
            };
            self.divert(&mut window);
            if !window.is_empty() {
                return window;
            }
            came.await;
        }
    }

    /// Takes out of a window what goes a way that is closed.
    pub(super) fn divert(&self, window: &mut Vec<Item>) {
        let mut stuck = lock(&self.stuck);
        if stuck.closed.is_empty() {
            return;
        }
        let diverted: Vec<Item> = window
            .extract_if(.., |item| stuck.closed.contains_key(&item.way()))
            .collect();
        if !diverted.is_empty() {
            diverted.into_iter().for_each(|item| stuck.add(item));
            self.stuck_came.notify_one();
        }
    }

    /// Leaves in a window of what is stuck only what goes the way of its first.
    pub(super) fn keep_one_way(&self, window: &mut Vec<Item>) {
        let Some(way) = window.first().map(Item::way) else {
            return;
        };
        let mut stuck = lock(&self.stuck);
        for item in window.extract_if(.., |item| item.way() != way) {
            stuck.add(item);
            self.stuck_came.notify_one();
        }
    }

    /// It was not confirmed in time: it, and what goes its way, go out beside the others.
    pub(super) fn add_stuck(&self, item: Item) {
        let mut stuck = lock(&self.stuck);
        stuck.closed.entry(item.way()).or_default();
        stuck.add(item.in_doubt());
        self.stuck_came.notify_one();
    }

    /// As many as go one way together, when some are stuck. A way that was silent comes after the others, and is tried
    /// with one: RabbitMQ may keep each that it does not confirm.
    pub(super) async fn take_stuck(&self) -> Vec<Item> {
        loop {
            let came = self.stuck_came.notified();
            {
                let mut stuck = lock(&self.stuck);
                let silent = |stuck: &Stuck, way: &Thing| stuck.closed.get(way) == Some(&Closed::Silent);
                let first = stuck.ways.iter().position(|(way, _)| !silent(&stuck, way));
                if let Some((way, mut items)) = stuck.ways.remove(first.unwrap_or(0)) {
                    items.retain(Item::is_wanted);
                    let silent = silent(&stuck, &way);
                    let count = items.len().min(if silent { 1 } else { WINDOW });
                    let window: Vec<Item> = items.drain(..count).collect();
                    if !items.is_empty() {
                        stuck.ways.push_back((way.clone(), items));
                    }
                    if !stuck.ways.is_empty() {
                        self.stuck_came.notify_one();
                    }
                    if !window.is_empty() {
                        return window;
                    }
                    continue;
                }
            }
            came.await;
        }
    }

    /// Messages went this way alone: whether all were confirmed. Answers whether that is news.
    pub(super) fn went(&self, way: &Thing, confirmed: bool) -> bool {
        let mut stuck = lock(&self.stuck);
        let before = if confirmed {
            stuck.closed.remove(way)
        } else {
            stuck.closed.insert(way.clone(), Closed::Silent)
        };
        (before == Some(Closed::Silent)) == confirmed
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millhand_proto::{Class, QueueName};
    use tokio::time::timeout;

    use super::*;
    use crate::io::Io;

    /// From which nobody takes anything.
    fn outbox() -> Arc<Outbox> {
        let uri = crate::rabbitmq::parse("amqp://nowhere").unwrap();
        Outbox::new(Link::start(
            "nowhere",
            "tests",
            &uri,
            None,
            &Io::start("tests").unwrap(),
        ))
    }

    fn message(body: Bytes) -> Outgoing {
        Outgoing::new(Route::Work(QueueName::default(), Class::Normal), body)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_published_in_time_is_refused() {
        let began = Instant::now();
        let mut answers = std::pin::pin!(outbox().publish(vec![message(Bytes::new())]));
        let before = limits::PUBLISH.saturating_sub(Duration::from_millis(5));
        assert!(timeout(before, &mut answers).await.is_err(), "it still waits");
        assert!(matches!(answers.await[..], [Pushed::Rejected(_)]));
        assert!(began.elapsed() < limits::PUBLISH + Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_more_than_may_wait_is_refused() {
        let piece = Bytes::from(vec![0; (1 << 20) - OVERHEAD]);
        let refused = async |more: usize| {
            let mut bodies = vec![piece.clone(); limits::PUBLISH_BYTES / (1 << 20)];
            bodies[0] = vec![0; piece.len() + more].into();
            let answers = outbox().publish(bodies.into_iter().map(message).collect()).await;
            let full =
                |answer: &Pushed| matches!(answer, Pushed::Rejected(why) if why.contains("wait to be published"));
            answers.iter().filter(|answer| full(answer)).count()
        };
        assert_eq!(refused(0).await, 0);
        assert_eq!(refused(1).await, 1, "one byte more");
    }

    /// A window of one message, and who waits for its answer.
    fn window(outbox: &Outbox) -> (Vec<Item>, oneshot::Receiver<Pushed>) {
        let (answer, answered) = oneshot::channel();
        let item = Item {
            message: message(Bytes::new()),
            stage: Arc::default(),
            in_doubt: false,
            answer,
            _room: Arc::clone(&outbox.room).try_acquire_owned().unwrap(),
        };
        (vec![item], answered)
    }

    #[tokio::test]
    async fn what_goes_a_closed_way_goes_beside_the_others_until_it_is_open() {
        let outbox = outbox();
        let way = Thing::Work(QueueName::default(), Class::Normal);
        let mut waiting = Vec::new();
        let mut sent = || {
            let (mut window, answered) = window(&outbox);
            waiting.push(answered);
            outbox.divert(&mut window);
            window
        };
        let stuck = sent().pop().unwrap();
        assert_eq!(stuck.way(), way);
        outbox.add_stuck(stuck);
        assert_eq!(sent().len(), 0, "it is not sent with others");
        assert_eq!(outbox.take_stuck().await.len(), 2);
        assert!(outbox.went(&way, false), "that is news");
        assert!(!outbox.went(&way, false), "that is none");
        assert_eq!((sent().len(), sent().len()), (0, 0));
        assert_eq!(outbox.take_stuck().await.len(), 1, "a silent way is tried with one");
        assert!(outbox.went(&way, true), "that is news");
        assert_eq!(sent().len(), 1);
        assert_eq!(outbox.take_stuck().await.len(), 1, "what waited goes out");
    }
}
