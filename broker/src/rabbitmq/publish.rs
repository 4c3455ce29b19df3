//! Publishing: messages of all callers go out in windows, each on its own channel, and are accepted
//! when RabbitMQ confirms them.
//!
//! A message that found no way is returned *before* its confirm, and lapin gives the return to
//! whichever confirm comes next. So one return makes the outcome of its whole window unknown: what
//! may be missing is declared again and the window goes again, the same bytes with the same ids, and
//! if that does not help one by one, where nothing can be mistaken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use millhand_proto::limits;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::link::{FIRST_PAUSE, Link, Wire};
use super::names::{self, Names};
use super::topology::Thing;
use super::trouble::Trouble;
use crate::backend::Pushed;
use crate::clock::Clock;
use crate::error::Error;
use crate::io::{Io, jitter};
use crate::pair::queue::{Outgoing, Route};

/// How long a message may take, from when it was handed in.
const LIMIT: Duration = Duration::from_secs(20);
/// Channels; each has one window on its way.
const CHANNELS: usize = 4;
/// Messages of a window.
const WINDOW: usize = 128;
/// Bytes that wait to be published in this process.
const ROOM: usize = 64 << 20;
/// What a message takes beside its body.
const OVERHEAD: usize = 256;
/// How often the same window goes out.
const ROUNDS: u8 = 3;
/// The pause before what was refused goes out again.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// How long the ladder carries what a full queue refused.
const DETOUR: Duration = Duration::from_secs(4);
/// What a refusal means.
const FULL: &str = "RabbitMQ refused it: the queue is full (a length limit set by a policy), or not available";
/// The header that says when a message was published, in microseconds.
pub(super) const AT: &str = "at";

/// Nobody has sent it.
const WAITING: u8 = 0;
/// It may be there.
const SENT: u8 = 1;
/// Its caller has gone: it must not be sent.
const GIVEN_UP: u8 = 2;

/// A message on its way.
#[derive(Debug)]
struct Item {
    message: Outgoing,
    stage: Arc<AtomicU8>,
    /// It went out, and what became of that is not known.
    in_doubt: bool,
    answer: oneshot::Sender<Pushed>,
    _room: OwnedSemaphorePermit,
}

impl Item {
    /// Whether it may be sent; from now on its caller says *unknown* when the time is up.
    fn may_go(&self) -> bool {
        let claimed = self
            .stage
            .compare_exchange(WAITING, SENT, Ordering::SeqCst, Ordering::SeqCst);
        claimed.map_or_else(|now| now == SENT, |_| true) && !self.answer.is_closed()
    }

    /// Its queue is full: the ladder takes it.
    fn later(mut self) -> Self {
        if let Route::Work(queue, class) = self.message.to {
            self.message.to = Route::Later(queue, class, DETOUR, true);
        }
        self
    }

    fn accept(self) {
        let _ = self.answer.send(Pushed::Accepted);
    }

    /// It was refused; unless an earlier copy of it may be there.
    fn refuse(self, why: String) {
        let _ = self.answer.send(if self.in_doubt {
            Pushed::Unknown(why)
        } else {
            Pushed::Rejected(why)
        });
    }

    /// It was refused, and no earlier copy of it can be there.
    fn reject(self, why: String) {
        let _ = self.answer.send(Pushed::Rejected(why));
    }
}

/// The messages that wait to be published.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Item>>,
    came: Notify,
    room: Arc<Semaphore>,
    link: Arc<Link>,
    /// What went wrong last, until something goes right.
    trouble: Mutex<Option<String>>,
}

impl Outbox {
    pub(super) fn start(link: Arc<Link>, names: &Names, io: &Io) -> Arc<Self> {
        let outbox = Arc::new(Self {
            waiting: Mutex::default(),
            came: Notify::new(),
            room: Arc::new(Semaphore::new(ROOM)),
            link,
            trouble: Mutex::default(),
        });
        for _ in 0..CHANNELS {
            let publisher = Publisher {
                outbox: Arc::clone(&outbox),
                names: names.clone(),
                window: Vec::new(),
                rounds: 0,
                mistaken: false,
            };
            io.handle().spawn(publisher.run());
        }
        outbox
    }

    /// Hands messages in and waits for what becomes of each.
    pub(super) async fn publish(self: Arc<Self>, messages: Vec<Outgoing>) -> Vec<Pushed> {
        let mut over = std::pin::pin!(sleep_until(Instant::now() + LIMIT));
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
                pending.push(Err(format!("{} MiB wait to be published already: {why}", ROOM >> 20)));
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
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(item);
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
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|item| item.stage.load(Ordering::SeqCst) != GIVEN_UP);
        self.came.notify_one();
        tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(bytes) => room.ok(),
            () = over => None,
        }
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why nothing can be sent now, where that is known.
    pub(super) fn why(&self) -> Option<String> {
        let noted = || self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.link.why().or_else(noted)
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

    async fn take(&self) -> Vec<Item> {
        loop {
            let came = self.came.notified();
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let count = waiting.len().min(WINDOW);
                if count > 0 {
                    let window = waiting.drain(..count).collect();
                    if !waiting.is_empty() {
                        self.came.notify_one();
                    }
                    return window;
                }
            }
            came.await;
        }
    }
}

/// One channel and its window.
struct Publisher {
    outbox: Arc<Outbox>,
    names: Names,
    window: Vec<Item>,
    /// How often the window, or some of it, came back.
    rounds: u8,
    /// It cannot be told which of its messages the server did not like.
    mistaken: bool,
}

impl Publisher {
    async fn run(mut self) {
        loop {
            self.fill().await;
            let wire = match self.outbox.link.get().await {
                Ok(wire) => wire,
                Err(error) => {
                    self.without(&error);
                    continue;
                }
            };
            let trouble = match wire.confirming().await {
                Ok(channel) => self.work(&wire, &channel).await,
                Err(trouble) => trouble,
            };
            tracing::debug!(
                broker = wire.place(),
                error = trouble.text,
                "a publishing channel is made again"
            );
            sleep(jitter(FIRST_PAUSE)).await;
        }
    }

    async fn fill(&mut self) {
        self.window.retain(|item| !item.answer.is_closed());
        if self.window.is_empty() {
            (self.rounds, self.mistaken) = (0, false);
            self.window = self.outbox.take().await;
        }
    }

    /// There is no connection: who is not sent yet waits, unless that is of no use.
    fn without(&mut self, error: &Error) {
        if let Error::Unusable { problem, .. } = error {
            for item in self.window.drain(..) {
                item.refuse(problem.clone());
            }
        }
    }

    /// Publishes window after window, until the channel is of no use.
    async fn work(&mut self, wire: &Wire, channel: &Channel) -> Trouble {
        loop {
            let done = self.round(wire, channel).await;
            if let Err(trouble) = done {
                return trouble;
            }
            self.outbox.note(None);
            tokio::select! {
                () = self.fill() => {}
                () = wire.gone() => return Trouble::passing("the connection is gone".into()),
            }
        }
    }

    async fn round(&mut self, wire: &Wire, channel: &Channel) -> Result<(), Trouble> {
        self.prepare(wire).await?;
        tokio::select! {
            () = wire.unblocked() => {}
            () = wire.gone() => return Err(Trouble::passing("the connection is gone".into())),
        }
        self.window.retain(Item::may_go);
        let last = self.rounds + 1 >= ROUNDS;
        if last && self.mistaken {
            return self.one_by_one(wire, channel).await;
        }
        let window = std::mem::take(&mut self.window);
        let sent = join_all(window.iter().map(|item| send(channel, &self.names, &item.message)));
        let Some(outcomes) = patiently(wire, sent).await else {
            self.window = window;
            self.doubt();
            return Err(Trouble::passing("RabbitMQ confirms nothing".into()));
        };
        let returned = outcomes
            .iter()
            .any(|o| matches!(o, Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))));
        let mut trouble = None;
        for (item, outcome) in window.into_iter().zip(outcomes) {
            match outcome {
                Ok(Confirmation::Ack(None)) if !returned => item.accept(),
                Ok(Confirmation::Nack(None)) if !returned && item.message.goes_later() => {
                    self.window.push(item.later());
                }
                Ok(Confirmation::Nack(None)) if !returned && last => item.refuse(FULL.into()),
                Ok(Confirmation::Nack(None)) if !returned => self.window.push(item),
                Ok(_) => self.window.push(Item { in_doubt: true, ..item }),
                Err(error) => {
                    trouble.get_or_insert_with(|| wire.trouble(&error));
                    self.window.push(Item { in_doubt: true, ..item });
                }
            }
        }
        let of_channel = trouble.as_ref().is_some_and(|trouble| trouble.of_channel);
        if returned || of_channel {
            wire.topology.forget();
            self.mistaken = true;
        }
        if let Some(trouble) = trouble {
            self.rounds = (self.rounds + u8::from(of_channel)).min(ROUNDS);
            return Err(trouble);
        }
        if !self.window.is_empty() {
            self.rounds += 1;
            if !returned {
                // They were refused; there may be room in a moment.
                sleep(jitter(REFUSED_PAUSE)).await;
            }
        }
        Ok(())
    }

    fn doubt(&mut self) {
        for item in &mut self.window {
            item.in_doubt = true;
        }
    }

    /// Makes sure that each message of the window has a way; what cannot have one is refused.
    async fn prepare(&mut self, wire: &Wire) -> Result<(), Trouble> {
        let mut at = 0;
        while let Some(item) = self.window.get(at) {
            match self.pave(wire, &item.message.to).await {
                Ok(()) => at += 1,
                Err(trouble) if trouble.passes => return Err(trouble),
                Err(trouble) => self.window.remove(at).refuse(trouble.text),
            }
        }
        Ok(())
    }

    async fn pave(&self, wire: &Wire, route: &Route) -> Result<(), Trouble> {
        for thing in Thing::on(route) {
            wire.ensure(&self.names, &thing).await?;
        }
        Ok(())
    }

    /// The last round: with one message on its way, what is said is said of that one.
    async fn one_by_one(&mut self, wire: &Wire, channel: &Channel) -> Result<(), Trouble> {
        while let Some(item) = self.window.pop() {
            let sent = send(channel, &self.names, &item.message);
            match patiently(wire, sent).await {
                Some(Ok(Confirmation::Ack(None))) => item.accept(),
                // Where an earlier copy would be, there is no queue.
                Some(Ok(Confirmation::Ack(Some(_)))) => {
                    item.reject("RabbitMQ has no queue for it, though it was declared just before".into());
                }
                Some(Ok(_)) if item.message.goes_later() => {
                    self.window.push(item.later());
                    self.prepare(wire).await?;
                }
                Some(Ok(_)) => item.refuse(FULL.into()),
                Some(Err(error)) => {
                    let trouble = wire.trouble(&error);
                    if trouble.of_channel {
                        item.refuse(trouble.text.clone());
                    } else {
                        self.window.push(Item { in_doubt: true, ..item });
                    }
                    return Err(trouble);
                }
                None => {
                    self.window.push(Item { in_doubt: true, ..item });
                    return Err(Trouble::passing("RabbitMQ confirms nothing".into()));
                }
            }
        }
        Ok(())
    }
}

/// What becomes of what was sent. When nothing does for as long as callers wait, and no alarm of the
/// server says why, the connection is given up.
async fn patiently<T>(wire: &Wire, sent: impl Future<Output = T>) -> Option<T> {
    let mut sent = std::pin::pin!(sent);
    loop {
        tokio::select! {
            outcome = sent.as_mut() => return Some(outcome),
            () = sleep(LIMIT) => if wire.blocked.borrow().is_none() {
                wire.give_up("RabbitMQ confirms nothing");
                return None;
            },
        }
    }
}

/// Publishes a message, with properties of its own: headers of one that came are never sent again.
async fn send(channel: &Channel, names: &Names, message: &Outgoing) -> lapin::Result<Confirmation> {
    let mut headers = FieldTable::default();
    let now = Clock::system().now().as_micros();
    headers.insert(AT.into(), AMQPValue::LongLongInt(now));
    let mut expiration = None;
    let (exchange, key) = match &message.to {
        Route::Work(queue, class) => (String::new(), names.work(queue, *class)),
        Route::Later(queue, class, wait, coarse) => {
            let seconds = names::seconds(*wait, *coarse);
            let exchange = names.level(names::highest(seconds));
            names::climb(&mut headers, seconds);
            (exchange, names::belongs(queue, *class))
        }
        Route::Side(side, keep) => {
            expiration = keep.map(|keep| keep.as_millis().max(1).to_string());
            (String::new(), names.side(*side))
        }
    };
    let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    if let Some(expiration) = expiration {
        properties = properties.with_expiration(expiration.into());
    }
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let body: &Bytes = &message.body;
    channel
        .basic_publish(exchange.into(), key.into(), options, body, properties)
        .await?
        .await
}
