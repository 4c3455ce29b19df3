//! What lapin and redis-rs do in the versions of the lock file, where Millhand is built around it.
//! When one of these fails, the library has changed, and what was built around it may go
//! (`docs/architecture.md`, *Traps*).
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use millhand_servers::{Rabbit, Redis, shared};
use tokio::task::block_in_place;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

async fn queue(channel: &Channel, name: &str) {
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.into(), durable, FieldTable::default())
        .await
        .unwrap();
}

fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_among_many_is_given_to_another_confirm() {
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    queue(&channel, "trap.returns").await;
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
    queue(&consuming, "trap.deleted").await;
    let consumer = consuming.basic_consume(
        "trap.deleted".into(),
        "trap".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumer.await.unwrap();
    let deleted = other.queue_delete("trap.deleted".into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    let next = timeout(SOON, consumer.next()).await.expect("it ends");
    assert!(next.is_none(), "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_connection_writes_no_acknowledgements_either() {
    let rabbit = Rabbit::start();
    let connection = connect(&rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "trap.blocked").await;
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
    while !matches!(
        timeout(SOON, blocked.next()).await.unwrap(),
        Some(lapin::Event::ConnectionBlocked(_))
    ) {}
    let _ = timeout(
        Duration::from_secs(1),
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()),
    )
    .await;
    let held = || block_in_place(|| rabbit.ctl(&["list_queues", "name", "messages_unacknowledged"]));
    let listed = held();
    assert!(
        !listed.contains("trap.blocked\t0"),
        "the acknowledgement went out: {listed}"
    );
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_are_waited_for_half_a_second_and_may_have_been_carried_out() {
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let add = || redis::cmd("INCR").arg("trap").to_owned();
    assert_eq!(add().query_async::<i64>(&mut connection).await.unwrap(), 1);
    redis.freeze();
    let asked = Instant::now();
    let error = add().query_async::<i64>(&mut connection).await.unwrap_err();
    assert!(
        error.is_timeout() && asked.elapsed() < Duration::from_secs(2),
        "{error}"
    );
    redis.thaw();
    // What failed was carried out.
    while redis.command(&["GET", "trap"]).text() != "2" {}
}
