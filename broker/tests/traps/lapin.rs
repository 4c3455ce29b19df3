//! lapin.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use millhand_servers::{Deed, Frame, Proxy, Rabbit, shared};
use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::{QUIET, SOON, connect, mandatory, queue};

#[tokio::test(flavor = "multi_thread")]
async fn a_return_among_many_is_given_to_another_confirm() {
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    queue(&channel, "trap.returns", FieldTable::default()).await;
    const BAD: usize = 40;
    // One message in 64 has no way; which confirm is told so is a matter of luck.
    for _ in 0..200 {
        let sent = (0..64).map(|n| {
            let to = if n == BAD { "trap.nowhere" } else { "trap.returns" };
            channel.basic_publish("".into(), to.into(), mandatory(), b"x", BasicProperties::default())
        });
        let confirms: Vec<_> = join_all(sent).await.into_iter().map(Result::unwrap).collect();
        let told: Vec<bool> = join_all(confirms)
            .await
            .into_iter()
            .map(|confirm| matches!(confirm.unwrap(), Confirmation::Ack(Some(_))))
            .collect();
        if !told[BAD] {
            assert_eq!(told.iter().filter(|t| **t).count(), 1, "one is told, and it is another");
            return;
        }
    }
    panic!("every return found its own confirm: windows need not be unknown any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_confirm_select_is_confirmed_by_nobody() {
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    let sent = channel.basic_publish(
        "".into(),
        "trap.nowhere".into(),
        mandatory(),
        b"x",
        BasicProperties::default(),
    );
    assert!(matches!(sent.await.unwrap().await.unwrap(), Confirmation::NotRequested));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_deleted_queue_ends_without_an_error() {
    let connection = connect(&shared().rabbit.url()).await;
    let (consuming, other) = (
        connection.create_channel().await.unwrap(),
        connection.create_channel().await.unwrap(),
    );
    queue(&consuming, "trap.deleted", FieldTable::default()).await;
    let consumer = consuming.basic_consume(
        "trap.deleted".into(),
        "trap".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumer.await.unwrap();
    // RabbitMQ 4 was seen to tell nothing to one that nothing had come to yet.
    let sent = other.basic_publish(
        "".into(),
        "trap.deleted".into(),
        mandatory(),
        b"x",
        BasicProperties::default(),
    );
    sent.await.unwrap();
    let first = timeout(SOON, consumer.next()).await.expect("it is delivered");
    assert!(matches!(first, Some(Ok(_))), "{first:?}");
    let deleted = other.queue_delete("trap.deleted".into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    let next = timeout(SOON, consumer.next()).await.expect("it ends");
    assert!(next.is_none(), "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_connection_writes_no_acknowledgements_either() {
    let rabbit = Rabbit::start();
    // RabbitMQ reads nothing from a connection that it has blocked: only the wire tells what was written.
    let proxy = Proxy::amqp(rabbit.port());
    let connection = connect(&format!("amqp://guest:guest@127.0.0.1:{}", proxy.port())).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "trap.blocked", FieldTable::default()).await;
    let publish = || {
        let nothing = BasicPublishOptions::default();
        channel.basic_publish(
            "".into(),
            "trap.blocked".into(),
            nothing,
            b"x",
            BasicProperties::default(),
        )
    };
    publish().await.unwrap().await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume("trap.blocked".into(), "trap".into(), options, none);
    let mut consumer = consumer.await.unwrap();
    let delivery = timeout(SOON, consumer.next()).await.unwrap().unwrap().unwrap();
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]));
    // The publish makes RabbitMQ block the connection; its writing is what lapin then leaves alone.
    let mut blocked = connection.events_listener();
    publish().await.unwrap();
    loop {
        let event = timeout(SOON, blocked.next()).await.unwrap();
        if let lapin::Event::ConnectionBlocked(_) = event.expect("the events do not end") {
            break;
        }
    }
    proxy.at(Frame::Ack, 1, Deed::Silence);
    let acked = timeout(
        Duration::from_secs(1),
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()),
    );
    // Nothing is told to who acknowledges.
    let _ = acked.await;
    let written = |limit| block_in_place(|| proxy.harmed(1, limit));
    assert!(!written(Duration::from_secs(1)), "the acknowledgement went out");
    // It goes out when the alarm is over.
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]));
    assert!(written(SOON), "the acknowledgement is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_sets_the_prefetch_again() {
    let rabbit = &shared().rabbit;
    let proxy = Proxy::to(rabbit.port());
    let recovering = ConnectionProperties::default().enable_auto_recover();
    let url = format!("amqp://guest:guest@127.0.0.1:{}", proxy.port());
    let connection = Connection::connect(&url, recovering).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "trap.prefetch", FieldTable::default()).await;
    for _ in 0..10 {
        let nothing = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            "".into(),
            "trap.prefetch".into(),
            nothing,
            b"x",
            BasicProperties::default(),
        );
        sent.await.unwrap();
    }
    channel.basic_qos(3, BasicQosOptions::default()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume("trap.prefetch".into(), "trap".into(), options, none);
    let mut consumer = consumer.await.unwrap();
    for redelivered in [false, true] {
        for _ in 0..3 {
            let came = async {
                loop {
                    // What was cut is told once, and the consumer goes on.
                    if let Ok(delivery) = consumer.next().await.expect("it goes on")
                        && delivery.redelivered == redelivered
                    {
                        return;
                    }
                }
            };
            timeout(SOON, came).await.expect("a delivery");
        }
        let more = timeout(QUIET, consumer.next()).await;
        assert!(more.is_err(), "{more:?}");
        proxy.cut();
        proxy.mend();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_on_a_closed_channel_is_no_error() {
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "trap.poison", FieldTable::default()).await;
    let (nothing, none) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish("".into(), "trap.poison".into(), nothing, b"x", none);
    sent.await.unwrap();
    let get = async |channel: &Channel| loop {
        let got = channel.basic_get("trap.poison".into(), BasicGetOptions::default());
        if let Some(message) = got.await.unwrap() {
            return message;
        }
    };
    let held = timeout(SOON, get(&channel)).await.unwrap();
    // The server closes a channel that acknowledges what it does not know.
    channel.basic_ack(4711, BasicAckOptions::default()).await.unwrap();
    let closed = async {
        while channel.status().connected() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.expect("it is closed");
    assert!(!held.acker.ack(BasicAckOptions::default()).await.unwrap());
    let again = timeout(SOON, get(&connection.create_channel().await.unwrap()))
        .await
        .unwrap();
    assert!(again.redelivered, "nothing was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_message_is_logged_with_its_body() {
    let heard = Heard::listen();
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    let body = b"canary";
    let sent = channel.basic_publish(
        "".into(),
        "trap.nowhere".into(),
        mandatory(),
        body,
        BasicProperties::default(),
    );
    sent.await.unwrap();
    let logged = async {
        while !heard.contains(&format!("{body:?}")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, logged).await.expect("the body is logged");
}

/// What lapin logs as a warning, in this whole process: it does so on threads of its own.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<String>>);

impl Heard {
    fn listen() -> Self {
        let heard = Self::default();
        tracing::subscriber::set_global_default(heard.clone()).unwrap();
        heard
    }

    fn contains(&self, what: &str) -> bool {
        self.0.lock().unwrap().contains(what)
    }
}

impl tracing::Subscriber for Heard {
    fn enabled(&self, of: &tracing::Metadata<'_>) -> bool {
        *of.level() <= tracing::Level::WARN && of.target().starts_with("lapin")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            *self.0.lock().unwrap() += &format!("{field}={value:?}\n");
        });
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
