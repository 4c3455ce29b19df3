//! RabbitMQ as the queue: it carries.
//!
//! One connection publishes, because RabbitMQ may block it; the other consumes and answers questions.
//! All of it runs on a thread of its own.

mod acks;
mod admin;
mod consume;
mod headers;
mod link;
mod names;
mod outbox;
mod publish;
mod sieve;
mod stream;
#[cfg(test)]
mod tests;
mod topology;
mod trouble;

use std::sync::Arc;

use lapin::uri::AMQPUri;
use millhand_proto::{QueueName, WorkerId};

use self::acks::Acks;
use self::admin::Admin;
use self::consume::Consuming;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::headers::told;
use self::link::Link;
use self::names::Names;
use self::outbox::Outbox;
use crate::backend::{BoxFuture, DeliveryId, Pushed, Subscription};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::pair::queue::{Arrival, Arrivals, Outgoing, Queue, Side};
use crate::tls::Tls;
use crate::url::{Server, malformed};

/// A RabbitMQ server, in one namespace.
#[derive(Debug)]
pub(crate) struct RabbitMq {
    place: String,
    outbox: Arc<Outbox>,
    consuming: Arc<Consuming>,
    admin: Arc<Admin>,
    acks: Arc<Acks>,
    io: Io,
}

impl RabbitMq {
    /// The URL is taken apart, nothing is connected; that happens on `io`.
    pub(crate) fn new(server: &Server, namespace: &str, io: Io) -> Result<Arc<Self>> {
        let Server { url, place, tls, .. } = server;
        let unusable = |problem| Error::unusable(place, problem);
        let uri = parse(url).map_err(unusable)?;
        tls.as_ref().map_or(Ok(()), Tls::check).map_err(unusable)?;
        let names = Names::new(namespace);
        let acks = Arc::<Acks>::default();
        let link = |name| Link::start(place, name, &uri, tls.as_ref(), &io);
        let (publishes, consumes) = (link("publishes"), link("consumes"));
        let admin = Admin {
            link: Arc::clone(&consumes),
            names: names.clone(),
            acks: Arc::clone(&acks),
        };
        let outbox = Outbox::new(publishes);
        publish::start(&outbox, &names, &io);
        Ok(Arc::new(Self {
            outbox,
            consuming: Consuming::new(consumes, names, Arc::clone(&acks)),
            admin: Arc::new(admin),
            acks,
            place: place.clone(),
            io,
        }))
    }
}

/// Takes a URL apart, more carefully than lapin does alone.
pub(crate) fn parse(url: &str) -> std::result::Result<AMQPUri, String> {
    let mut uri: AMQPUri = url
        .parse()
        .map_err(|_| malformed(url, "amqp://USER:PASSWORD@HOST:PORT/VHOST"))?;
    if uri.query.heartbeat == Some(0) {
        return Err("heartbeat=0: a server that stands still would not be noticed; it is 1 to 65535 seconds".into());
    }
    // lapin knows no address in brackets, and would take localhost.
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    if uri.vhost.len() > 255 {
        return Err("the vhost in the URL is longer than 255 bytes".into());
    }
    Ok(uri)
}

impl Queue for RabbitMq {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn trouble(&self) -> Option<String> {
        self.outbox.why()
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Pushed>> {
        let count = messages.len();
        let published = self.io.run(Arc::clone(&self.outbox).publish(messages));
        Box::pin(async move {
            let closed = |_| vec![Pushed::Unknown(Error::Closed.to_string()); count];
            published.await.unwrap_or_else(closed)
        })
    }

    fn consume(&self, subscription: Subscription, held: bool) -> BoxFuture<'_, Result<Arrivals>> {
        let started = self.io.run(Arc::clone(&self.consuming).start(subscription, held));
        Box::pin(async { started.await? })
    }

    fn acknowledge(&self, deliveries: Vec<DeliveryId>) {
        self.acks.done(deliveries);
    }

    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, ()> {
        let left = self.io.run(Arc::clone(&self.consuming).leave(worker));
        Box::pin(async {
            let _ = left.await;
        })
    }

    fn depths(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Vec<u64>>> {
        let depths = self.io.run(Arc::clone(&self.admin).depths(queues));
        Box::pin(async { depths.await? })
    }

    fn purge(&self, queue: QueueName) -> BoxFuture<'_, Result<u64>> {
        let purged = self.io.run(Arc::clone(&self.admin).purge(queue));
        Box::pin(async { purged.await? })
    }

    fn take(&self, from: Side, most: usize) -> BoxFuture<'_, Result<Vec<Arrival>>> {
        let taken = self.io.run(Arc::clone(&self.admin).take(from, most));
        Box::pin(async { taken.await? })
    }

    fn depth_of(&self, side: Side) -> BoxFuture<'_, Result<u64>> {
        let depth = self.io.run(Arc::clone(&self.admin).depth_of(side));
        Box::pin(async { depth.await? })
    }
}
