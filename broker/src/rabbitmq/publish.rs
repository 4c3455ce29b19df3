//! Publishing: messages of all callers go out in windows, each on its own channel, and are accepted
//! when RabbitMQ confirms them.
//!
//! A message that found no way is returned *before* its confirm, and lapin gives the return to
//! whichever confirm comes next. So one return makes the outcome of its whole window unknown: what
//! may be missing is declared again and the window goes again, the same bytes with the same ids, and
//! if that does not help one by one, where nothing can be mistaken.
//!
//! A channel's first message to a quorum queue that has no leader, as after a kill, holds up what the
//! channel gets behind it, for up to half a minute (RabbitMQ 3.10), and such a queue may stay without one. So the
//! first that is not confirmed in time, and what goes its way, go out again on a channel of their own, until that way
//! is open again; what came behind goes out again without them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use millhand_proto::limits;
use tokio::time::{Instant, sleep, sleep_until};

use super::link::{FIRST_PAUSE, Wire};
use super::names::{self, Names};
use super::outbox::{Item, Outbox};
use super::topology::Thing;
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::error::Error;
use crate::io::{Io, jitter};
use crate::pair::queue::{Outgoing, Route};

/// How long a message may stay unconfirmed before it goes out again.
const STUCK: Duration = Duration::from_secs(5);
/// What is said of it.
const UNCONFIRMED: &str = "RabbitMQ does not confirm what it got";
/// Channels; each has one window on its way.
const CHANNELS: usize = 4;
/// How often the same window goes out.
const ROUNDS: u8 = 3;
/// The pause before what was refused goes out again.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// What a refusal means.
const FULL: &str = "RabbitMQ refused it: the queue is full (a length limit set by a policy), or not available";
/// The header that says when a message was published, in microseconds.
pub(super) const AT: &str = "at";

/// Starts to publish what comes into the outbox.
pub(super) fn start(outbox: &Arc<Outbox>, names: &Names, io: &Io) {
    for number in 0..=CHANNELS {
        let publisher = Publisher {
            outbox: Arc::clone(outbox),
            cares_for_stuck: number == CHANNELS,
            names: names.clone(),
            window: Vec::new(),
            rounds: 0,
            mistaken: false,
        };
        io.handle().spawn(publisher.run());
    }
}

/// One channel and its window.
struct Publisher {
    outbox: Arc<Outbox>,
    /// Whether it publishes what was not confirmed beside others.
    cares_for_stuck: bool,
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
        self.window.retain(Item::is_wanted);
        if self.cares_for_stuck {
            // What was refused may go another way now.
            self.outbox.keep_one_way(&mut self.window);
        } else {
            self.outbox.divert(&mut self.window);
        }
        if self.window.is_empty() {
            (self.rounds, self.mistaken) = (0, false);
            self.window = if self.cares_for_stuck {
                self.outbox.take_stuck().await
            } else {
                self.outbox.take().await
            };
        }
    }

    /// The one way that the window goes, where it goes beside the others.
    fn alone(&self) -> Option<Thing> {
        let first = self.window.first().filter(|_| self.cares_for_stuck);
        first.map(Item::way)
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
        let alone = self.alone();
        let window = std::mem::take(&mut self.window);
        let sent = window.iter().map(|item| send(channel, &self.names, &item.message));
        let outcomes = patiently(wire, sent).await;
        // A return is told with the first confirm after it: of what was confirmed before, nothing was returned.
        let returned = outcomes
            .iter()
            .flatten()
            .any(|o| matches!(o, Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))));
        let stuck = outcomes.iter().any(Option::is_none);
        // Nothing is learnt of a way that nobody wanted to go any more, or that went with its connection.
        let confirmed = !outcomes.is_empty() && outcomes.iter().all(|outcome| matches!(outcome, Some(Ok(_))));
        if let Some(way) = alone.filter(|_| stuck || confirmed) {
            self.learn(wire, &way, confirmed);
        }
        let (mut trouble, mut culprit) = (None, None);
        for (item, outcome) in window.into_iter().zip(outcomes) {
            match outcome {
                Some(Ok(Confirmation::Ack(None))) if !returned => item.accept(),
                Some(Ok(Confirmation::Nack(None))) if !returned && item.message.goes_later() => {
                    self.window.push(item.later());
                }
                Some(Ok(Confirmation::Nack(None))) if !returned && last => item.refuse(FULL.into()),
                Some(Ok(Confirmation::Nack(None))) if !returned => self.window.push(item),
                Some(Ok(_)) => self.window.push(item.in_doubt()),
                // The first holds up what came behind it.
                None if *culprit.get_or_insert_with(|| item.way()) == item.way() => self.outbox.add_stuck(item),
                None => self.window.push(item.in_doubt()),
                Some(Err(error)) => {
                    trouble.get_or_insert_with(|| wire.trouble(&error));
                    self.window.push(item.in_doubt());
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
        if stuck {
            // Another channel: RabbitMQ looks again for where the queues are.
            return Err(Trouble::passing(UNCONFIRMED.into()));
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

    /// What went a way alone was confirmed, or was not.
    fn learn(&self, wire: &Wire, way: &Thing, confirmed: bool) {
        let news = self.outbox.went(way, confirmed);
        let (broker, queue) = (wire.place(), way.queue(&self.names));
        match (news, confirmed) {
            (true, true) => tracing::info!(broker, queue, "this queue confirms again"),
            (true, false) => tracing::warn!(broker, queue, "this queue does not confirm; what goes there waits"),
            (false, _) => {}
        }
        if news || !confirmed {
            // Who runs RabbitMQ may have deleted it, and of a level no return tells that.
            wire.topology.forget_way(way);
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
            match patiently(wire, [sent]).await.pop().flatten() {
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
                        self.window.push(item.in_doubt());
                    }
                    return Err(trouble);
                }
                None => {
                    self.outbox.add_stuck(item);
                    return Err(Trouble::passing(UNCONFIRMED.into()));
                }
            }
        }
        Ok(())
    }
}

/// What becomes of what was sent; nothing of what is not confirmed in time. A queue may not be there yet when the
/// server has started again. When nothing at all is confirmed for as long as callers wait, and no alarm of the
/// server says why, the connection is given up.
async fn patiently<T>(wire: &Wire, sent: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<Option<T>> {
    let sent = sent.into_iter().enumerate();
    let mut open: FuturesUnordered<_> = sent.map(|(at, sent)| async move { (at, sent.await) }).collect();
    let mut outcomes = Vec::new();
    outcomes.resize_with(open.len(), || None);
    if open.is_empty() {
        return outcomes;
    }
    wire.published();
    let mut look = Instant::now() + STUCK;
    loop {
        tokio::select! {
            next = open.next() => {
                let Some((at, outcome)) = next else { return outcomes };
                if let Some(place) = outcomes.get_mut(at) {
                    *place = Some(outcome);
                }
                wire.confirmed();
                look = Instant::now() + STUCK;
            }
            () = sleep_until(look) => {
                if wire.blocked.borrow().is_none() {
                    if wire.unconfirmed_for() >= limits::PUBLISH {
                        wire.give_up(UNCONFIRMED);
                    }
                    return outcomes;
                }
                wire.confirmed();
                wire.published();
                look = Instant::now() + STUCK;
            }
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
