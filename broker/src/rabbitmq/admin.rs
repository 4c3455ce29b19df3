//! Looking into queues, emptying them, and taking out of those aside. Each call has a channel of its
//! own, on the connection that is never blocked.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{BasicGetOptions, QueuePurgeOptions};
use millhand_proto::{Class, QueueName};
use tokio::time::sleep;

use super::acks::Acks;
use super::consume::{arrival, generation};
use super::link::{Link, Wire};
use super::names::Names;
use super::topology::{Declare, Thing};
use super::trouble::Trouble;
use crate::error::Result;
use crate::pair::queue::{Arrival, Side};

/// Messages taken at once.
const AT_ONCE: usize = 256;
/// How long taken messages may be in hands; then they go back.
const IN_HANDS: Duration = Duration::from_secs(60);

/// What is asked of RabbitMQ beside the carrying.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) acks: Arc<Acks>,
}

impl Admin {
    /// Ready messages of each queue. Declaring a queue tells them, where asking for one that is not
    /// there would close the channel.
    pub(super) async fn depths(self: Arc<Self>, queues: Vec<QueueName>) -> Result<Vec<u64>> {
        self.ask(async |declare: Declare<'_>| {
            let classes = queues.iter().flat_map(|queue| Class::ALL.map(|class| (queue, class)));
            let depths = classes.map(|(queue, class)| {
                let names = declare.names;
                declare.queue(names.work(queue, class), names.work_arguments())
            });
            let depths = try_join_all(depths).await?;
            Ok(depths
                .chunks(Class::ALL.len())
                .map(|of_queue| of_queue.iter().sum())
                .collect())
        })
        .await
    }

    pub(super) async fn purge(self: Arc<Self>, queue: QueueName) -> Result<u64> {
        self.ask(async |declare: Declare<'_>| {
            let mut purged = 0;
            for class in Class::ALL {
                let name = declare.names.work(&queue, class);
                declare.queue(name.clone(), declare.names.work_arguments()).await?;
                let purge = declare.channel.queue_purge(name.into(), QueuePurgeOptions::default());
                purged += u64::from(declare.wire.answer(purge).await?);
            }
            Ok(purged)
        })
        .await
    }

    pub(super) async fn depth_of(self: Arc<Self>, side: Side) -> Result<u64> {
        self.ask(async |declare: Declare<'_>| {
            let names = declare.names;
            declare.queue(names.side(side), names.side_arguments(side)).await
        })
        .await
    }

    async fn ask<T>(&self, question: impl AsyncFnOnce(Declare<'_>) -> std::result::Result<T, Trouble>) -> Result<T> {
        let wire = self.link.get().await?;
        let answer = async {
            let channel = wire.channel().await?;
            let names = &self.names;
            let wire = &*wire;
            question(Declare { wire, channel, names }).await
        };
        answer.await.map_err(|trouble| self.link.told(&trouble))
    }

    /// Takes messages out of a side queue. What is not acknowledged goes back when its time is up.
    pub(super) async fn take(self: Arc<Self>, side: Side, most: usize) -> Result<Vec<Arrival>> {
        let wire = self.link.get().await?;
        let taken = self.take_on(&wire, side, most).await;
        taken.map_err(|trouble| self.link.told(&trouble))
    }

    async fn take_on(&self, wire: &Arc<Wire>, side: Side, most: usize) -> std::result::Result<Vec<Arrival>, Trouble> {
        wire.ensure(&self.names, &Thing::Side(side)).await?;
        let declare = Declare {
            wire,
            channel: wire.channel().await?,
            names: &self.names,
        };
        let name = self.names.side(side);
        let ready = declare.queue(name.clone(), self.names.side_arguments(side)).await?;
        let channel = declare.channel;
        let count = usize::try_from(ready).unwrap_or(usize::MAX).min(most).min(AT_ONCE);
        let gets = (0..count).map(|_| {
            let get = channel.basic_get(name.as_str().into(), BasicGetOptions { no_ack: false });
            wire.answer(get)
        });
        let got = try_join_all(gets).await?;
        let acking = self.acks.begin(generation(), &channel);
        let taken = got.into_iter().flatten().map(|got| {
            acking.acker.delivered(got.delivery.delivery_tag);
            arrival(acking.generation, got.delivery)
        });
        let taken = taken.collect();
        let wire = Arc::clone(wire);
        tokio::spawn(async move {
            tokio::select! {
                () = acking.acker.all_done() => {}
                () = sleep(IN_HANDS) => {}
                () = wire.gone() => {}
            }
            acking.finish().await;
            let _ = wire.answer(channel.close(200, "OK".into())).await;
        });
        Ok(taken)
    }
}
