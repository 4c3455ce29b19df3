//! The queue alone against a real RabbitMQ.

mod connections;
mod faults;
mod flow;
mod topology;

use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::{Channel, Connection, ConnectionProperties};
use millhand_proto::Class;
use tokio::time::timeout;

use super::*;
use crate::pair::queue::{Arrived, Generation, Route};

/// The server under test.
fn server() -> String {
    millhand_servers::shared().rabbit.url()
}

/// Long enough for anything that is to happen.
const SOON: Duration = Duration::from_secs(20);
/// How long nothing must come for it to count as nothing.
const QUIET: Duration = Duration::from_millis(400);

/// A namespace of its own for each test.
struct Place {
    namespace: String,
    names: Names,
}

impl Place {
    fn new() -> Self {
        let namespace = format!("t{:x}", crate::io::random());
        let names = Names::new(&namespace);
        Self { namespace, names }
    }

    fn open(&self, url: &str) -> Arc<RabbitMq> {
        RabbitMq::new(&Server::of(url), &self.namespace, Io::start("tests").unwrap()).unwrap()
    }
}

fn mail() -> QueueName {
    QueueName::new("mail").unwrap()
}

fn work(number: usize) -> Outgoing {
    let class = Class::ALL[number % 3];
    Outgoing::new(Route::Work(mail(), class), number.to_string().into())
}

fn later(wait: Duration, coarse: bool, body: &'static str) -> Outgoing {
    Outgoing::new(
        Route::Later(mail(), Class::Normal, wait, coarse),
        Bytes::from_static(body.as_bytes()),
    )
}

async fn publish(queue: &RabbitMq, messages: Vec<Outgoing>) {
    let answers = queue.publish(messages).await;
    assert!(answers.iter().all(|a| *a == Pushed::Accepted), "{answers:?}");
}

fn subscription(prefetch: usize) -> Subscription {
    Subscription {
        worker: WorkerId::from_random(uuid::Uuid::new_v4().into_bytes()),
        queue: mail(),
        prefetch,
    }
}

async fn next(arrivals: &mut Arrivals) -> Arrived {
    timeout(SOON, arrivals.arrived.recv())
        .await
        .expect("nothing came")
        .unwrap()
}

async fn message(arrivals: &mut Arrivals) -> Arrival {
    match next(arrivals).await {
        Arrived::Message(arrival) => arrival,
        Arrived::Lost(generation) => panic!("{generation:?} was lost"),
    }
}

async fn messages(arrivals: &mut Arrivals, count: usize) -> Vec<Arrival> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(message(arrivals).await);
    }
    all
}

async fn quiet(arrivals: &mut Arrivals) {
    if let Ok(came) = timeout(QUIET, arrivals.arrived.recv()).await {
        panic!("{came:?}");
    }
}

async fn lost(arrivals: &mut Arrivals) -> Generation {
    loop {
        if let Arrived::Lost(generation) = next(arrivals).await {
            return generation;
        }
    }
}

/// Waits until so many messages are ready.
async fn depth(queue: &RabbitMq, wanted: u64) {
    let by = Instant::now() + SOON;
    loop {
        let depth = queue.depths(vec![mail()]).await.unwrap();
        if depth == [wanted] {
            return;
        }
        assert!(Instant::now() < by, "{depth:?} messages are ready, not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A channel past the queue under test.
async fn beside() -> (Connection, Channel) {
    let connection = Connection::connect(&server(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}
