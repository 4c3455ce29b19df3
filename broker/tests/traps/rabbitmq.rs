//! RabbitMQ, whose versions differ: each test says what is true of the one that it runs on.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use millhand_servers::{Rabbit, shared};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use crate::{QUIET, SOON, connect, queue};

/// Major and minor version of the shared server.
fn version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let printed = block_in_place(|| shared().rabbit.ctl(&["version"]));
        let mut numbers = printed.trim().split('.').map(|part| part.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The arguments of a quorum queue, and more.
fn quorum<const N: usize>(more: [(&str, AMQPValue); N]) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    for (name, value) in more {
        arguments.insert(name.into(), value);
    }
    arguments
}

/// A channel that confirms, of the shared server.
async fn channel() -> Channel {
    let connection = connect(&shared().rabbit.url()).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

async fn publish(channel: &Channel, to: &str, body: &[u8], properties: BasicProperties) {
    let sent = channel.basic_publish("".into(), to.into(), BasicPublishOptions::default(), body, properties);
    assert_eq!(sent.await.unwrap().await.unwrap(), Confirmation::Ack(None));
}

/// The next message, unless none comes within this time.
async fn get(channel: &Channel, from: &str, patience: Duration) -> Option<BasicGetMessage> {
    let by = Instant::now() + patience;
    loop {
        let got = channel
            .basic_get(from.into(), BasicGetOptions::default())
            .await
            .unwrap();
        if got.is_some() || Instant::now() > by {
            return got;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn give_back(channel: &Channel, message: &BasicGetMessage) {
    let requeue = BasicNackOptions {
        multiple: false,
        requeue: true,
    };
    channel.basic_nack(message.delivery_tag, requeue).await.unwrap();
}

/// How often the server says that a message was delivered in vain.
fn counted(message: &BasicGetMessage) -> i64 {
    let headers = message.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        None => 0,
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::ShortShortUInt(count)) => (*count).into(),
        Some(AMQPValue::LongUInt(count)) => (*count).into(),
        Some(other) => panic!("{other:?}"),
    }
}

/// Millhand's queues say their own limit, and what is over it goes to `lost`, not away.
#[tokio::test(flavor = "multi_thread")]
async fn every_return_is_counted_and_rabbitmq_4_drops_after_twenty_where_nothing_is_said() {
    let channel = channel().await;
    queue(&channel, "trap.returns-counted", quorum([])).await;
    publish(&channel, "trap.returns-counted", b"x", BasicProperties::default()).await;
    let mut returns = 0;
    while returns < 30
        && let Some(message) = get(&channel, "trap.returns-counted", 10 * QUIET).await
    {
        let counts = version() < (4, 3);
        assert_eq!(counted(&message), if counts { returns } else { 0 });
        give_back(&channel, &message).await;
        returns += 1;
    }
    let dropped = ((4, 0)..(4, 3)).contains(&version());
    assert_eq!(returns, if dropped { 21 } else { 30 });
}

/// Millhand promises no order among jobs.
#[tokio::test(flavor = "multi_thread")]
async fn a_returned_message_goes_behind_the_others_unless_its_queue_has_a_limit() {
    let channel = channel().await;
    let limit = || ("x-delivery-limit", AMQPValue::LongLongInt(100));
    for (name, arguments, limited) in [
        ("trap.end", quorum([]), version() >= (4, 0)),
        ("trap.front", quorum([limit()]), true),
    ] {
        queue(&channel, name, arguments).await;
        for body in [b"1", b"2"] {
            publish(&channel, name, body, BasicProperties::default()).await;
        }
        let first = get(&channel, name, SOON).await.unwrap();
        assert_eq!(first.data, b"1");
        give_back(&channel, &first).await;
        let next = get(&channel, name, SOON).await.unwrap();
        assert_eq!(next.data, if limited { b"1" } else { b"2" }, "{name}");
    }
}

/// Millhand has a queue for each class.
#[tokio::test(flavor = "multi_thread")]
async fn priorities_of_quorum_queues_mean_nothing_before_rabbitmq_4() {
    let channel = channel().await;
    queue(&channel, "trap.priorities", quorum([])).await;
    for (body, priority) in [(b"1", 0), (b"2", 9)] {
        let properties = BasicProperties::default().with_priority(priority);
        publish(&channel, "trap.priorities", body, properties).await;
    }
    let first = get(&channel, "trap.priorities", SOON).await.unwrap();
    assert_eq!(first.data, if version() < (4, 0) { b"1" } else { b"2" });
}

/// Millhand publishes each copy with properties of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_message_with_the_headers_of_its_last_way_vanishes_before_rabbitmq_4() {
    let channel = channel().await;
    let level = |next| {
        quorum([
            ("x-message-ttl", AMQPValue::LongLongInt(50)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(next)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ])
    };
    queue(&channel, "trap.level.1", level("trap.level.0")).await;
    queue(&channel, "trap.level.0", level("trap.work")).await;
    queue(&channel, "trap.work", quorum([])).await;
    publish(&channel, "trap.level.1", b"first", BasicProperties::default()).await;
    let first = get(&channel, "trap.work", SOON).await.unwrap();
    let headers = first.properties.headers().clone().unwrap();
    assert!(headers.contains_key("x-death"), "{headers:?}");
    let copied = BasicProperties::default().with_headers(headers);
    publish(&channel, "trap.level.1", b"copied", copied).await;
    // On the same way, behind it.
    publish(&channel, "trap.level.1", b"fresh", BasicProperties::default()).await;
    let next = get(&channel, "trap.work", SOON).await.unwrap();
    assert_eq!(next.data, if version() < (4, 0) { &b"fresh"[..] } else { b"copied" });
}

/// Millhand's ladder and its work queues ask for the strategy.
#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_queue_and_finds_no_way_is_gone_unless_at_least_once_is_asked_for() {
    let channel = channel().await;
    let level = |strategy| {
        quorum([
            ("x-message-ttl", AMQPValue::LongLongInt(50)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("trap.nowhere-yet")),
            ("x-dead-letter-strategy", text(strategy)),
            ("x-overflow", text("reject-publish")),
        ])
    };
    // How long RabbitMQ waits before it tries again what found no way.
    let often = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 500).";
    block_in_place(|| shared().rabbit.ctl(&["eval", often]));
    let strategies = ["at-most-once", "at-least-once"];
    for strategy in strategies {
        let name = format!("trap.{strategy}");
        queue(&channel, &name, level(strategy)).await;
        publish(&channel, &name, strategy.as_bytes(), BasicProperties::default()).await;
    }
    let by = Instant::now() + SOON;
    for strategy in strategies {
        while queue(&channel, &format!("trap.{strategy}"), level(strategy)).await > 0 {
            assert!(Instant::now() < by, "it stays");
            sleep(Duration::from_millis(20)).await;
        }
    }
    queue(&channel, "trap.nowhere-yet", quorum([])).await;
    let came = get(&channel, "trap.nowhere-yet", SOON).await.expect("one was kept");
    assert_eq!(came.data, b"at-least-once");
    assert!(get(&channel, "trap.nowhere-yet", 5 * QUIET).await.is_none());
}

/// Millhand's messages have 15.5 MiB at the most.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_more_than_16_mib_are_refused_by_rabbitmq_4() {
    let channel = channel().await;
    queue(&channel, "trap.big", quorum([])).await;
    for (size, taken) in [(31 << 19, true), (17 << 20, version() < (4, 0))] {
        let options = BasicPublishOptions::default();
        let body = vec![7; size];
        let sent = channel.basic_publish("".into(), "trap.big".into(), options, &body, BasicProperties::default());
        let outcome = timeout(SOON, async { sent.await?.await }).await.expect("an answer");
        assert_eq!(
            matches!(outcome, Ok(Confirmation::Ack(None))),
            taken,
            "{size}: {outcome:?}"
        );
    }
}

/// Millhand's subscriptions have a channel each, and long jobs let go of their delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_held_for_too_long_costs_its_whole_channel() {
    if version() >= (4, 3) {
        // There it is told by `basic.cancel`, of one consumer.
        return;
    }
    let rabbit = block_in_place(|| Rabbit::with(&[("consumer_timeout", "60000")]));
    let set = |millis: u32| {
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {millis}), \
             application:set_env(rabbit, channel_tick_interval, {millis})."
        );
        block_in_place(|| rabbit.ctl(&["eval", &set]));
    };
    let connection = connect(&rabbit.url()).await;
    let other = connection.create_channel().await.unwrap();
    other.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    set(1_000);
    let channel = connection.create_channel().await.unwrap();
    let mut consumers = Vec::new();
    for name in ["trap.slow", "trap.beside"] {
        queue(&channel, name, quorum([])).await;
        let consumer = channel.basic_consume(
            name.into(),
            name.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        consumers.push(consumer.await.unwrap());
    }
    publish(&other, "trap.slow", b"x", BasicProperties::default()).await;
    timeout(SOON, consumers[0].next()).await.unwrap().unwrap().unwrap();
    let told = timeout(SOON, consumers[0].next()).await.expect("the channel is closed");
    let beside = timeout(SOON, consumers[1].next()).await.expect("that consumer too");
    for told in [told, beside] {
        let error = told.map(|delivery| delivery.unwrap_err().to_string());
        assert!(
            error.as_ref().is_some_and(|e| e.contains("PRECONDITION_FAILED")),
            "{error:?}"
        );
    }
    assert!(connection.status().connected(), "and the connection stays");
    let again = get(&other, "trap.slow", SOON).await.expect("it came back");
    other
        .basic_ack(again.delivery_tag, BasicAckOptions::default())
        .await
        .unwrap();
}
