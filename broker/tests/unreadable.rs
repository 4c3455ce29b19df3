//! What cannot be read, or not whole: what stands in the way of setting it aside stands in nobody else's way, and
//! what has to be told of its jobs is told, if late.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use millhand_broker::{BackendUrl, Consumer, Pushed, Subscription, open};
use millhand_proto::{Core, JobId, Mailbox, Parcel, QueueName, State, TaskName, Timestamp};
use millhand_servers::{Rabbit, Redis};
use tokio::task::block_in_place;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

fn core(n: u64) -> Core {
    let now = Timestamp::from_micros(1_790_000_000_000_000);
    let task = TaskName::new("act").unwrap();
    Core::new(JobId::minted(now, n, 0), task, QueueName::default(), now)
}

/// A job that cannot be read, but for its id.
fn misspelt(n: u64) -> Core {
    let mut misspelt = core(n);
    misspelt.id = JobId::minted(Timestamp::from_micros(1_790_000_000_000_000), n, 1);
    misspelt.tags = vec!["x".repeat(65)];
    misspelt
}

/// A parcel of two jobs, one of which cannot be read.
fn mixed(n: u64) -> Vec<u8> {
    let misspelt = misspelt(n);
    let mixed = Parcel::pack(vec![core(n), misspelt]).unwrap().encode();
    let opened = Parcel::decode(&mixed.clone().into()).unwrap();
    assert_eq!((opened.parcel.unwrap().jobs().len(), opened.bad.len()), (1, 1));
    mixed
}

/// What begins as a parcel of a version that nobody knows, and so is kept whole.
fn newer(bytes: usize) -> Vec<u8> {
    let mut newer = b"\x92\x81\xa1v\x63".to_vec();
    newer.resize(bytes, 0xc1);
    newer
}

/// Publishes behind Millhand's back.
async fn publish(rabbit: &Rabbit, body: &[u8]) {
    let (url, properties) = (rabbit.url(), ConnectionProperties::default());
    let connection = Connection::connect(&url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.unwrap();
    let (queue, options) = ("mh.main.1.q.default.normal", BasicPublishOptions::default());
    let sent = channel.basic_publish("".into(), queue.into(), options, body, BasicProperties::default());
    assert!(sent.await.unwrap().await.unwrap().is_ack());
}

/// How many messages are aside, says the queue itself; none while there is no such queue.
async fn aside(rabbit: &Rabbit) -> u32 {
    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("mh.main.1.unreadable".into(), passive, FieldTable::default());
    queue.await.map_or(0, |queue| queue.message_count())
}

fn subscription() -> Subscription {
    Subscription {
        worker: Mailbox::from_random([1; 16]),
        queue: QueueName::default(),
        prefetch: 16,
    }
}

async fn next(consumer: &mut Consumer) -> Vec<JobId> {
    let delivery = timeout(SOON, consumer.deliveries.recv()).await.unwrap().unwrap();
    delivery.parcel.jobs().iter().map(|job| job.id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_good_jobs_wait_until_the_rest_is_aside_and_others_do_not_wait() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    let url = BackendUrl::of(&rabbit.url(), Some(&redis.url())).unwrap();
    let backend = open(&url).unwrap();
    let good = |n| Parcel::pack(vec![core(n)]).unwrap();
    backend.push(vec![good(10)]).await;
    publish(&rabbit, &mixed(1)).await;
    backend.push(vec![good(11)]).await;

    // RabbitMQ takes nothing more, and still delivers.
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]));
    let mut consumer = backend.consume(subscription()).await.unwrap();
    for n in [10, 11] {
        assert_eq!(next(&mut consumer).await, [core(n).id]);
    }
    let early = timeout(Duration::from_millis(500), consumer.deliveries.recv()).await;
    assert!(early.is_err(), "the rest is aside first: {early:?}");
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]));
    assert_eq!(next(&mut consumer).await, [core(1).id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_never_takes_holds_up_nothing_that_comes_after_it() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    let url = BackendUrl::of(&rabbit.url(), Some(&redis.url())).unwrap();
    let pushed = open(&url)
        .unwrap()
        .push(vec![Parcel::pack(vec![core(10)]).unwrap()])
        .await;
    assert_eq!(pushed, [Pushed::Accepted]);
    publish(&rabbit, &newer(100_000)).await;
    // For channels that are opened from now on.
    block_in_place(|| rabbit.ctl(&["eval", "application:set_env(rabbit, max_message_size, 50000)."]));
    let backend = open(&url).unwrap();
    let mut consumer = backend.consume(subscription()).await.unwrap();
    assert_eq!(next(&mut consumer).await, [core(10).id]);
    for n in [1, 2, 3] {
        publish(&rabbit, &mixed(n)).await;
        assert_eq!(next(&mut consumer).await, [core(n).id]);
    }
    assert_eq!(*consumer.unreadable.borrow(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_jobs_are_told_to_be_dead_when_there_is_a_redis_again_to_tell() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    let url = BackendUrl::of(&rabbit.url(), Some(&redis.url())).unwrap();
    let backend = open(&url).unwrap();
    let mut consumer = backend.consume(subscription()).await.unwrap();
    block_in_place(|| redis.kill());
    publish(&rabbit, &Parcel::pack(vec![misspelt(1)]).unwrap().encode()).await;
    publish(&rabbit, &mixed(2)).await;
    // Both are aside, and nobody could be told.
    timeout(SOON, async { while aside(&rabbit).await < 2 {} })
        .await
        .unwrap();
    block_in_place(|| redis.restart());

    assert_eq!(next(&mut consumer).await, [core(2).id]);
    let jobs = vec![misspelt(1).id, misspelt(2).id];
    let dead = async || {
        let views = backend.read(jobs.clone()).await.unwrap().into_iter().flatten();
        views.filter(|view| view.entry.state == State::Dead).count()
    };
    timeout(SOON, async { while dead().await < 2 {} }).await.unwrap();
    assert_eq!(aside(&rabbit).await, 2, "each is aside once");
}

/// The command of docs/guarantees.md, with fewer bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_bounds_the_bytes_of_what_is_aside() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    let url = BackendUrl::of(&rabbit.url(), Some(&redis.url())).unwrap();
    let backend = open(&url).unwrap();
    let _consumer = backend.consume(subscription()).await.unwrap();
    let (pattern, bytes) = (r"^mh\..*\.unreadable$", r#"{"max-length-bytes": 100000}"#);
    let policy = [
        "set_policy",
        "millhand-unreadable",
        pattern,
        bytes,
        "--apply-to",
        "queues",
    ];
    block_in_place(|| rabbit.ctl(&policy));
    for _ in 0..5 {
        publish(&rabbit, &newer(40_000)).await;
    }
    // Each is noted when it is aside.
    let noted = async || {
        let queues = backend.queues().await.unwrap();
        queues.iter().map(|queue| queue.unreadable.len()).sum::<usize>()
    };
    timeout(SOON, async { while noted().await < 5 {} }).await.unwrap();
    assert_eq!(aside(&rabbit).await, 2, "the newest that have room");
}
