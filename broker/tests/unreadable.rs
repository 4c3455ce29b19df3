//! A parcel that cannot be read whole: what stands in the way of setting it aside stands in nobody else's way.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use millhand_broker::{BackendUrl, Consumer, Subscription, open};
use millhand_proto::{Core, JobId, Mailbox, Parcel, QueueName, TaskName, Timestamp};
use millhand_servers::{Rabbit, Redis};
use tokio::task::block_in_place;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

fn core(n: u64) -> Core {
    let now = Timestamp::from_micros(1_790_000_000_000_000);
    let task = TaskName::new("act").unwrap();
    Core::new(JobId::minted(now, n, 0), task, QueueName::default(), now)
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
    let mut misspelt = core(1);
    misspelt.id = JobId::minted(Timestamp::from_micros(1_790_000_000_000_000), 1, 1);
    misspelt.tags = vec!["x".repeat(65)];
    let mixed = Parcel::pack(vec![core(1), misspelt]).unwrap().encode();
    let opened = Parcel::decode(&mixed.clone().into()).unwrap();
    assert_eq!((opened.parcel.unwrap().jobs().len(), opened.bad.len()), (1, 1));
    let good = |n| Parcel::pack(vec![core(n)]).unwrap();
    backend.push(vec![good(10)]).await;
    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (queue, options) = ("mh.main.1.q.default.normal", BasicPublishOptions::default());
    let sent = channel.basic_publish("".into(), queue.into(), options, &mixed, BasicProperties::default());
    sent.await.unwrap().await.unwrap();
    // Also so that the one before it is in its queue.
    backend.push(vec![good(11)]).await;

    // RabbitMQ takes nothing more, and still delivers.
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]));
    let subscription = Subscription {
        worker: Mailbox::from_random([1; 16]),
        queue: QueueName::default(),
        prefetch: 16,
    };
    let mut consumer = backend.consume(subscription).await.unwrap();
    for n in [10, 11] {
        assert_eq!(next(&mut consumer).await, [core(n).id]);
    }
    let early = timeout(Duration::from_millis(500), consumer.deliveries.recv()).await;
    assert!(early.is_err(), "the rest is aside first: {early:?}");
    block_in_place(|| rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]));
    assert_eq!(next(&mut consumer).await, [core(1).id]);
}
