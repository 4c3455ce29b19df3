//! What an operator sees of a fleet's queues and jobs is all there is, and true.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use millhand::{Client, Context, Failure, Job, JobFilter, JobId, QueueName, QueueView, State, Task, Worker};
use millhand_servers::shared;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A task that no worker here knows.
#[derive(Serialize, Deserialize)]
struct Strange;

impl Task for Strange {
    const NAME: &'static str = "strange";
    type Output = ();
}

/// A task that a worker here knows.
#[derive(Serialize, Deserialize)]
struct Usual;

impl Task for Usual {
    const NAME: &'static str = "usual";
    type Output = ();
}

async fn usual(_: Usual, _: Context) -> Result<(), Failure> {
    Ok(())
}

const SOON: Duration = Duration::from_secs(30);

fn urls(namespace: &str) -> [String; 2] {
    [shared().rabbit.url(), shared().redis.url()].map(|url| format!("{url}?ns={namespace}"))
}

async fn client(namespace: &str) -> Client {
    let [broker, store] = urls(namespace);
    Client::fleet(&broker, &store).await.unwrap()
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

async fn listed(client: &Client, state: State) -> (Vec<JobId>, bool) {
    let filter = JobFilter {
        states: vec![state],
        limit: 10_000,
        ..JobFilter::default()
    };
    let page = client.admin().list(filter).await.unwrap();
    (
        page.jobs.iter().map(|job| job.id).collect(),
        page.complete && !page.more,
    )
}

/// Nothing tells that a job is parked, so it is looked.
async fn parked(client: &Client, id: JobId) {
    let started = Instant::now();
    loop {
        let seen = client.get(id).await.unwrap();
        if seen.as_ref().is_some_and(|view| view.entry.parked.is_some()) {
            return;
        }
        assert!(started.elapsed() < SOON, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_be_asked_does_not_hide_the_others() {
    let client = client("odd").await;
    let (url, properties) = (shared().rabbit.url(), lapin::ConnectionProperties::default());
    let connection = lapin::Connection::connect(&url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (plain, odd) = (lapin::types::FieldTable::default(), "mh.odd.1.q.odd.normal");
    let declared = channel.queue_declare(odd.into(), QueueDeclareOptions::durable(), plain);
    declared.await.unwrap();
    let _ = client.enqueue(Job::of(Usual).queue("plain")).await.unwrap();
    // Whoever names a queue in any way makes it known.
    client.admin().pause(name("odd")).await.unwrap();
    client.backend().flush().await;
    let queues = client.admin().queues().await.unwrap();
    let of = |queue: &str| queues.iter().find(|view| view.name.as_str() == queue).unwrap();
    let QueueView { queued, trouble, .. } = of("plain");
    assert_eq!((*queued, trouble), (1, &None));
    let trouble = of("odd").trouble.as_deref().unwrap_or_default();
    assert!(trouble.contains(odd), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_is_whole() {
    let client = client("many").await;
    const MANY: usize = 1300;
    let mut ids: Vec<JobId> = Vec::new();
    for enqueued in client.enqueue_many((0..MANY).map(|_| Usual)).await {
        ids.push(enqueued.id());
    }
    client.backend().flush().await;
    let (mut seen, whole) = listed(&client, State::Queued).await;
    seen.sort_unstable();
    ids.sort_unstable();
    assert!(whole && seen == ids, "{} of {MANY}, whole: {whole}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_is_cancelled_and_listed_parked_jobs_too() {
    let client = client("purged").await;
    let [broker, store] = urls("purged");
    let strange = client.enqueue(Strange).await.unwrap().id();
    let worker = Worker::new(millhand::fleet(&broker, &store).unwrap()).on_async(usual);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));
    parked(&client, strange).await;
    // It would run the other job: a pause takes a moment to reach it.
    let _ = stop.send(());
    worker.await.unwrap().unwrap();
    let waits = client.enqueue(Usual).await.unwrap().id();
    client.backend().flush().await;
    client.admin().purge(QueueName::default(), |_| true).await.unwrap();
    for id in [strange, waits] {
        assert_eq!(client.wait_raw(id, SOON).await.unwrap().entry.state, State::Cancelled);
    }
    let (mut cancelled, whole) = listed(&client, State::Cancelled).await;
    cancelled.sort_unstable();
    let mut both = [strange, waits];
    both.sort_unstable();
    assert!(whole && cancelled == both, "{cancelled:?} of {both:?}, whole: {whole}");
}
