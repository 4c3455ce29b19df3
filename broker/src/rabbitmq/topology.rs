//! Declaring queues and exchanges, each once per connection and before it is used first. What was
//! declared is forgotten with the connection, and when a message finds no way.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use millhand_proto::{Class, QueueName};
use tokio::time::{Instant, sleep};

use super::link::Wire;
use super::names::{self, Names};
use super::trouble::Trouble;
use crate::io::jitter;
use crate::lock::lock;
use crate::pair::queue::{Route, Side};

/// The level on which copies wait for their first look whether a worker is alive, which is after a lease.
const LOOKS: u8 = 4;
/// How long one process waits for another that makes levels.
const MAKING: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// What can be declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    /// The queue of a class.
    Work(QueueName, Class),
    /// The way from the ladder to it.
    Due(QueueName, Class),
    /// The ladder's levels up to this one.
    Ladder(u8),
    /// A queue beside those that work.
    Side(Side),
}

impl Thing {
    /// What a message needs on its way, in the order of need. A ladder goes up to [`LOOKS`] from its beginning: many
    /// copies need that level first when RabbitMQ has just been killed, and a queue that is younger than some seconds
    /// may be lost in the next kill.
    pub(super) fn on(route: &Route) -> Vec<Self> {
        match route {
            Route::Work(queue, class) => vec![Self::Work(queue.clone(), *class)],
            Route::Later(queue, class, wait, coarse) => vec![
                Self::Work(queue.clone(), *class),
                Self::Due(queue.clone(), *class),
                Self::Ladder(names::highest(names::seconds(*wait, *coarse)).max(LOOKS)),
            ],
            Route::Side(side, _) => vec![Self::Side(*side)],
        }
    }

    /// The queue in which a message lies first that goes there.
    pub(super) fn queue(&self, names: &Names) -> String {
        match self {
            Self::Work(queue, class) | Self::Due(queue, class) => names.work(queue, *class),
            Self::Ladder(level) => names.level(*level),
            Self::Side(side) => names.side(*side),
        }
    }
}

/// What was declared on a connection.
#[derive(Debug, Default)]
pub(super) struct Topology {
    declared: Mutex<HashSet<Thing>>,
    /// Its own channel, because a refused declaration closes it. One declares at a time.
    channel: tokio::sync::Mutex<Option<Channel>>,
}

impl Topology {
    fn declared(&self) -> MutexGuard<'_, HashSet<Thing>> {
        lock(&self.declared)
    }

    /// Declares anew, when it is needed next, what a message needs that goes there first.
    pub(super) fn forget_way(&self, way: &Thing) {
        let ladder = |thing: &Thing| matches!((thing, way), (Thing::Ladder(_), Thing::Ladder(_)));
        self.declared().retain(|thing| thing != way && !ladder(thing));
    }

    /// Declares everything anew when it is needed next.
    pub(super) fn forget(&self) {
        self.declared().clear();
    }
}

impl Wire {
    /// Makes sure that a thing is there.
    pub(super) async fn ensure(&self, names: &Names, thing: &Thing) -> Result<(), Trouble> {
        if self.topology.declared().contains(thing) {
            return Ok(());
        }
        let mut kept = self.topology.channel.lock().await;
        if self.topology.declared().contains(thing) {
            return Ok(());
        }
        let channel = match kept.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => self.channel().await?,
        };
        let mut declare = Declare {
            wire: self,
            channel,
            names,
        };
        let lost = Thing::Side(Side::Lost);
        if !self.topology.declared().contains(&lost) {
            // Everything else leads there in the end.
            declare.side(Side::Lost).await?;
            self.topology.declared().insert(lost);
        }
        match thing {
            Thing::Work(queue, class) => {
                declare.queue(names.work(queue, *class), names.work_arguments()).await?;
            }
            Thing::Due(queue, class) => declare.due(queue, *class).await?,
            Thing::Ladder(highest) => declare.ladder(*highest).await?,
            Thing::Side(side) => declare.side(*side).await?,
        }
        let mut declared = self.topology.declared();
        if let Thing::Ladder(highest) = thing {
            declared.extend((0..*highest).map(Thing::Ladder));
        }
        declared.insert(thing.clone());
        drop(declared);
        *kept = Some(declare.channel);
        Ok(())
    }
}

/// Declares on a channel. All of it can be said again and again.
pub(super) struct Declare<'w> {
    pub(super) wire: &'w Wire,
    pub(super) channel: Channel,
    pub(super) names: &'w Names,
}

impl Declare<'_> {
    /// A queue; answers how many messages in it are ready.
    pub(super) async fn queue(&self, name: String, arguments: FieldTable) -> Result<u64, Trouble> {
        let declared = self
            .channel
            .queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
        Ok(self.wire.answer(declared).await?.message_count().into())
    }

    async fn exchange(&self, name: String, kind: ExchangeKind, arguments: FieldTable) -> Result<(), Trouble> {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = self.channel.exchange_declare(name.into(), kind, durable, arguments);
        self.wire.answer(declared).await
    }

    async fn bind(&self, queue: String, exchange: String, key: String, arguments: FieldTable) -> Result<(), Trouble> {
        let options = QueueBindOptions::default();
        let bound = self
            .channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, arguments);
        self.wire.answer(bound).await
    }

    /// A side queue. What is lost comes by an exchange, because only that can be named where
    /// messages leave a queue by themselves.
    pub(super) async fn side(&self, side: Side) -> Result<(), Trouble> {
        let name = self.names.side(side);
        self.queue(name.clone(), self.names.side_arguments(side)).await?;
        if side == Side::Lost {
            self.exchange(name.clone(), ExchangeKind::Fanout, FieldTable::default())
                .await?;
            self.bind(name.clone(), name, String::new(), FieldTable::default())
                .await?;
        }
        Ok(())
    }

    async fn due(&self, queue: &QueueName, class: Class) -> Result<(), Trouble> {
        let due = self.names.due();
        self.exchange(due.clone(), ExchangeKind::Direct, self.names.due_arguments())
            .await?;
        let key = names::belongs(queue, class);
        self.bind(self.names.work(queue, class), due, key, FieldTable::default())
            .await
    }

    /// The levels. RabbitMQ shows a new quorum queue to others a moment before the queue knows its own
    /// arguments. A message that came in that moment would never be due, nor would those behind it. So
    /// one process alone makes levels, and nobody uses one before its exchange, which is made last, is
    /// there.
    async fn ladder(&mut self, highest: u8) -> Result<(), Trouble> {
        let made = if self.has_exchange(self.names.level(highest)).await? {
            None
        } else {
            Some(self.alone().await?)
        };
        let made_all = self.levels(highest).await;
        // Others wait for it, also when this one failed.
        if let Some(lock) = made {
            lock.release(self.wire).await?;
        }
        made_all
    }

    async fn levels(&self, highest: u8) -> Result<(), Trouble> {
        let names = self.names;
        let due = self.exchange(names.due(), ExchangeKind::Direct, names.due_arguments());
        due.await?;
        try_join_all((0..=highest).map(|level| self.queue(names.level(level), names.level_arguments(level)))).await?;
        for level in 0..=highest {
            // The highest is made last: where it is, all others are.
            let arguments = names.level_exchange_arguments(level);
            self.exchange(names.level(level), ExchangeKind::Headers, arguments)
                .await?;
        }
        try_join_all((0..=highest).map(|level| {
            let name = names.level(level);
            self.bind(name.clone(), name, String::new(), names::waits_on(level))
        }))
        .await?;
        Ok(())
    }

    /// Whether it is there. The question costs the channel when it is not.
    async fn has_exchange(&mut self, name: String) -> Result<bool, Trouble> {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let kind = ExchangeKind::Headers;
        let asked = self
            .channel
            .exchange_declare(name.into(), kind, passive, FieldTable::default());
        match self.wire.answer(asked).await {
            Ok(()) => Ok(true),
            Err(trouble) if trouble.is_not_found() => {
                self.channel = self.wire.channel().await?;
                Ok(false)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Waits until no other process makes levels. One that stands still must not stop all others: they
    /// wait for a while only.
    async fn alone(&self) -> Result<Lock, Trouble> {
        let end = Instant::now() + MAKING;
        loop {
            let lock = Lock {
                channel: self.wire.channel().await?,
                name: self.names.making(),
            };
            match self.wire.answer(lock.take()).await {
                Ok(_) => return Ok(lock),
                Err(trouble) if trouble.is_locked() && Instant::now() < end => sleep(jitter(PAUSE)).await,
                Err(trouble) if trouble.is_locked() => return Ok(lock),
                Err(trouble) => return Err(trouble),
            }
        }
    }
}

/// A queue that one connection alone may have, and that goes with it.
struct Lock {
    channel: Channel,
    name: String,
}

impl Lock {
    fn take(&self) -> impl Future<Output = lapin::Result<lapin::Queue>> {
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(self.name.as_str().into(), exclusive, FieldTable::default())
    }

    async fn release(self, wire: &Wire) -> Result<(), Trouble> {
        if !self.channel.status().connected() {
            // It was not had in time.
            return Ok(());
        }
        let deleted = self
            .channel
            .queue_delete(self.name.into(), QueueDeleteOptions::default());
        wire.answer(deleted).await?;
        let _ = wire.answer(self.channel.close(200, "done".into())).await;
        Ok(())
    }
}
