//! Races and losses of memory, forced between the pair's own steps on a real Redis.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::{End, Meeting, Situation};
use millhand_proto::{
    Core, Fence, JobCopy, JobId, Leaving, Parcel, Parked, Payload, QueueName, Receipt, Record, State, Successor,
    TaskName, Timestamp, WorkerId,
};
use millhand_servers::Redis as Server;
use tokio::task::block_in_place;

use super::changes::{Change, Reply};
use super::records::{self, Records};
use super::store::{Key, Read, Store};
use super::trust::Trust;
use super::{Pair, Shared};
use crate::backend::{
    Acted, Backend, Claim, Consumer, Control, Delivery, Pushed, Release, Settled, Settlement, Subscription, Verdict,
};
use crate::io::Io;
use crate::rabbitmq::RabbitMq;
use crate::redis::Redis;
use crate::url::Server as At;
use crate::view::WorkerBeat;

/// A process's door to the records of a store.
struct Side {
    store: Arc<dyn Store>,
    records: Records,
}

impl Side {
    fn of(server: &Server) -> Self {
        let io = Io::start("tests").unwrap();
        let store: Arc<dyn Store> = Redis::new(&At::of(&server.url()), "tests", 1, io.clone()).unwrap();
        let records = Records::new(&store, &Arc::<Trust>::default(), &io);
        Self { store, records }
    }

    async fn change(&self, change: Change) -> Reply {
        self.records.one(change).await.unwrap()
    }

    async fn claim(&self, copy: &JobCopy) -> Fence {
        match self.meet(copy, None).await {
            Meeting::Run { fence, .. } => fence,
            other => panic!("it should run: {other:?}"),
        }
    }

    async fn meet(&self, copy: &JobCopy, purged: Option<Timestamp>) -> Meeting {
        let copy = copy.clone();
        let situation = Situation::new(worker(), 9, Timestamp::default());
        let claim = Change::Claim {
            copy,
            situation,
            purged,
        };
        match self.change(claim).await {
            Reply::Met(meeting) => meeting,
            other => panic!("it is met: {other:?}"),
        }
    }

    async fn succeed(&self, copy: &JobCopy, fence: Fence) {
        let end = Change::End {
            copy: copy.clone(),
            fence,
            end: End::Succeeded(Some(Payload::json("1").unwrap())),
            big: None,
            receipt: Receipt::default(),
            log: None,
        };
        self.change(end).await;
    }

    /// Decides a successor, as it was published, and confirms it.
    async fn leave(&self, copy: &JobCopy, fence: Option<Fence>, why: Leaving) {
        let (copy, due) = (copy.clone(), Timestamp::from_micros(1));
        let successor = Successor { why, due };
        let leave = Change::Leave {
            copy: copy.clone(),
            fence,
            successor,
            reason: None,
            note: None,
            receipt: None,
            log: None,
        };
        self.change(leave).await;
        let published = successor;
        let body = None;
        self.change(Change::Confirm { copy, published, body }).await;
    }

    async fn record(&self, copy: &JobCopy, hand: u32) -> Option<Record> {
        let key = copy.id().record_at(hand);
        let found = self.store.read(vec![Read::Get(Key::Record(key))]).await.unwrap().pop();
        records::decode(found.unwrap())
    }

    /// The state of the job's entry where this hand lives, and whether it is moved.
    async fn entry(&self, copy: &JobCopy, hand: u32) -> Option<(State, bool)> {
        let entry = self.record(copy, hand).await?.entries.pop()?;
        Some((entry.state, entry.moved))
    }

    /// What happens after the store was found to have forgotten.
    async fn restore(&self) {
        for (key, record) in self.records.written() {
            self.change(Change::Restore { key, record }).await;
        }
    }
}

fn worker() -> WorkerId {
    WorkerId::from_random([1; 16])
}

fn copy(hand: u32) -> JobCopy {
    let now = crate::clock::Clock::system().now();
    let (task, queue) = (TaskName::new("t").unwrap(), QueueName::new("q").unwrap());
    let mut copy = JobCopy::first(Core::new(JobId::minted(now, 7, 0), task, queue, now));
    copy.hop.hand = hand;
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_written_again_where_the_store_forgot_it() {
    let server = Server::start();
    let side = Side::of(&server);
    let copy = copy(0);
    side.records.hold(copy.id().record_at(0), None);
    side.claim(&copy).await;
    server.flush();
    assert_eq!(side.entry(&copy, 0).await, None);
    side.restore().await;
    assert_eq!(side.entry(&copy, 0).await, Some((State::Running, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_written_again_where_the_store_went_back_to_the_run() {
    let server = Server::start();
    let (side, other) = (Side::of(&server), Side::of(&server));
    let copy = copy(0);
    side.records.hold(copy.id().record_at(0), None);
    let fence = side.claim(&copy).await;
    let before = side.record(&copy, 0).await.unwrap();
    side.succeed(&copy, fence).await;
    server.flush();
    let key = copy.id().record_at(0);
    let record = Arc::new(before);
    other.change(Change::Restore { key, record }).await;
    assert_eq!(side.entry(&copy, 0).await, Some((State::Running, false)));
    side.restore().await;
    assert_eq!(side.entry(&copy, 0).await, Some((State::Succeeded, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_a_worker_overtakes_leaves_the_death_behind() {
    let server = Server::start();
    let (operator, other) = (Side::of(&server), Side::of(&server));
    let (dead, next) = {
        let copy = copy(0);
        let mut next = copy.clone();
        next.hop.hand = 1;
        (copy, next)
    };
    other.leave(&dead, None, Leaving::Death).await;
    let fence = other.claim(&next).await;
    let id = dead.id();
    let retried = || Change::Retried {
        id,
        copy: dead.clone(),
        hand: 0,
    };
    assert_eq!(operator.change(retried()).await, Reply::Acted(Acted::Done));
    assert_eq!(other.entry(&dead, 0).await, Some((State::Dead, true)));
    assert_eq!(other.entry(&dead, 1).await, Some((State::Running, false)));
    // Also when it has died again by then: that death has been retried by nobody.
    other.leave(&next, Some(fence), Leaving::Death).await;
    operator.change(retried()).await;
    assert_eq!(other.entry(&dead, 1).await, Some((State::Dead, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_finds_the_job_where_it_has_moved() {
    let server = Server::start();
    let (client, other) = (Side::of(&server), Side::of(&server));
    let copy = copy(0);
    let id = copy.id();
    let fence = other.claim(&copy).await;
    // The client has both records as they were while the job ran.
    for hand in 0..2 {
        client.records.hold(id.record_at(hand), None);
    }
    let (queue, reason) = (QueueName::new("q").unwrap(), String::new());
    client.change(Change::Unreadable { id, queue, reason }).await;
    other.leave(&copy, Some(fence), Leaving::Retry).await;
    assert_eq!(client.change(Change::Cancel { id }).await, Reply::Acted(Acted::Done));
    assert_eq!(other.entry(&copy, 0).await.map(|(_, moved)| moved), Some(true));
    assert_eq!(other.entry(&copy, 1).await, Some((State::Cancelled, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_when_its_queue_was_purged_ends_where_it_is_met() {
    let server = Server::start();
    let side = Side::of(&server);
    let now = crate::clock::Clock::system().now();
    let at = |secs| Some(now.plus(Duration::from_secs(secs)));
    let aside = |since| {
        let mut copy = copy(0);
        copy.hop.parked = Some(Parked { since, times: 2 });
        copy
    };
    // Parked again after the purge, or never parked: it is not what was purged.
    for copy in [aside(now.plus(Duration::from_secs(9))), copy(0)] {
        assert!(matches!(side.meet(&copy, at(5)).await, Meeting::Run { .. }));
        server.flush();
    }
    let parked = aside(now);
    assert_eq!(side.meet(&parked, at(5)).await, Meeting::Ended(State::Cancelled));
    assert_eq!(side.entry(&parked, 0).await, Some((State::Cancelled, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_outlive_a_store_that_starts_empty() {
    let server = Server::start();
    let io = Io::start("tests").unwrap();
    let store = Redis::new(&At::of(&server.url()), "tests", 1, io.clone()).unwrap();
    let nowhere = "amqp://127.0.0.1:1";
    let queue = RabbitMq::new(&At::of(nowhere), "tests", io.clone()).unwrap();
    let pair = Pair::new(queue, store, io);
    pair.hear().await.unwrap();
    let queue = QueueName::new("q").unwrap();
    let beat = || WorkerBeat::new(worker(), Timestamp::default(), vec![queue.clone()]);
    assert_eq!(pair.beat_once(beat()).await.unwrap(), []);
    pair.control_queue(Control::Pause(queue.clone())).await.unwrap();
    block_in_place(|| server.wipe_and_restart());
    let again = async {
        loop {
            match pair.beat_once(beat()).await {
                Ok(paused) => return paused,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let paused = tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    assert_eq!(paused, [queue]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_too_often_goes_to_its_queue_again() {
    let servers = millhand_servers::shared();
    let io = Io::start("tests").unwrap();
    let store = Redis::new(&At::of(&servers.redis.url()), "often", 1, io.clone()).unwrap();
    let url = servers.rabbit.url();
    let queue = RabbitMq::new(&At::of(&url), "often", io.clone()).unwrap();
    let pair = Pair::new(queue, store, io);
    let parcel = Parcel::of(copy(0));
    let body = parcel.encode();
    assert_eq!(pair.push_all(vec![parcel], false).await, [Pushed::Accepted]);

    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
    let channel = connection.await.unwrap().create_channel().await.unwrap();
    let mut deliveries = 0;
    let get = async || {
        let options = lapin::options::BasicGetOptions::default();
        channel
            .basic_get("mh.often.1.q.q.normal".into(), options)
            .await
            .unwrap()
    };
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while pair.return_lost().await.unwrap() == 0 {
        assert!(
            std::time::Instant::now() < until,
            "it is lost after {deliveries} deliveries"
        );
        while let Some(message) = get().await {
            assert_eq!(message.data, body);
            deliveries += 1;
            let again = lapin::options::BasicRejectOptions { requeue: true };
            channel.basic_reject(message.delivery_tag, again).await.unwrap();
        }
    }
    assert!(
        deliveries > 20,
        "fewer than RabbitMQ 4 grants where nothing is said: {deliveries}"
    );
    let back = get().await.expect("it is there again");
    assert_eq!(back.data, body);
    assert!(!back.redelivered, "as a message of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_after_a_running_job_waits_behind_no_backlog() {
    let servers = millhand_servers::shared();
    let io = Io::start("tests").unwrap();
    let store = Redis::new(&At::of(&servers.redis.url()), "ahead", 1, io.clone()).unwrap();
    let queue = RabbitMq::new(&At::of(&servers.rabbit.url()), "ahead", io.clone()).unwrap();
    let pair = Pair::new(queue, store, io);
    let backend: Arc<dyn Backend> = Arc::new(Shared(Arc::clone(&pair)));
    let subscription = Subscription {
        worker: worker(),
        queue: QueueName::new("q").unwrap(),
        prefetch: 1,
    };
    let mut consumer = backend.consume(subscription).await.unwrap();
    let jobs: Vec<JobCopy> = (0..4).map(|_| copy(0)).collect();
    let push = async |copy: &JobCopy| {
        let pushed = backend.push(vec![Parcel::of(copy.clone())]).await;
        assert_eq!(pushed, [Pushed::Accepted]);
    };
    let next = async |consumer: &mut Consumer, copy: &JobCopy| {
        let came = tokio::time::timeout(Duration::from_secs(40), consumer.deliveries.recv()).await;
        let delivery = came.expect("it waits behind nobody").unwrap();
        assert_eq!(delivery.parcel.jobs()[0].id(), copy.id());
        delivery
    };
    let settle = async |delivery: &Delivery, verdict: Verdict| {
        let (copy, log) = (delivery.parcel.jobs()[0].clone(), None);
        let delivery = delivery.id;
        let settlement = Settlement {
            delivery,
            copy,
            verdict,
            log,
        };
        assert_eq!(backend.settle(vec![settlement]).await.unwrap(), [Settled::Done]);
    };

    // One runs long, and another is met busy.
    push(&jobs[0]).await;
    let long = next(&mut consumer, &jobs[0]).await;
    let situation = Situation::new(worker(), 9, Timestamp::default());
    let claim = Claim {
        copy: jobs[0].clone(),
        situation,
    };
    assert!(matches!(
        backend.claim(vec![claim]).await.unwrap()[..],
        [Meeting::Run { .. }]
    ));
    settle(&long, Verdict::Detach).await;
    push(&jobs[1]).await;
    let busy = next(&mut consumer, &jobs[1]).await;
    // What comes now fills the prefetch, and waits.
    push(&jobs[2]).await;
    push(&jobs[3]).await;
    let until = backend.now().plus(Duration::from_secs(1));
    settle(&busy, Verdict::Release(Release::Busy(until))).await;
    let _held = next(&mut consumer, &jobs[2]).await;
    let reached = pair.ledger.reached();
    let again = next(&mut consumer, &jobs[1]).await;
    assert_eq!(pair.ledger.reached(), reached, "the backlog is no younger for it");
    settle(&again, Verdict::Acknowledge).await;
    // Also when it finds no slot.
    let watch = next(&mut consumer, &jobs[0]).await;
    settle(&watch, Verdict::Release(Release::Now)).await;
    next(&mut consumer, &jobs[0]).await;
}
