//! A job whose end cannot be settled holds up no other.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use millhand::{Client, Context, Enqueued, Failure, Job, Task, Worker};
use millhand_servers::shared;
use serde::{Deserialize, Serialize};

/// Has a child in another queue.
#[derive(Serialize, Deserialize)]
struct Parent;

impl Task for Parent {
    const NAME: &'static str = "parent";
    type Output = ();
}

async fn parent(_: Parent, context: Context) -> Result<(), Failure> {
    context.enqueue(Job::of(Plain).queue("odd"))?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Plain;

impl Task for Plain {
    const NAME: &'static str = "plain";
    type Output = ();
}

async fn plain(_: Plain, _: Context) -> Result<(), Failure> {
    Ok(())
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_whose_child_cannot_be_published_waits_alone() {
    let urls = [&shared().rabbit.url(), &shared().redis.url()].map(|url| format!("{url}?ns=settle"));
    let client = Client::fleet(&urls[0], &urls[1]).await.unwrap();
    // Nobody can publish to a queue that is there with other arguments.
    let (url, properties) = (shared().rabbit.url(), lapin::ConnectionProperties::default());
    let connection = lapin::Connection::connect(&url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (name, arguments) = ("mh.settle.1.q.odd.normal", lapin::types::FieldTable::default());
    let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
    declared.await.unwrap();

    let worker = Worker::new(millhand::fleet(&urls[0], &urls[1]).unwrap());
    let worker = worker.on_async(parent).on_async(plain);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));
    let held_up = client.enqueue(Parent).await.unwrap();
    let plain: Vec<Enqueued> = client.enqueue_many((0..300).map(|_| Plain)).await;
    for enqueued in plain {
        let ended = client.handle::<Plain>(enqueued.id()).wait(SOON).await;
        ended.unwrap().unwrap();
    }
    // Its child is nowhere, so it has not ended.
    assert!(!client.get(held_up.id()).await.unwrap().unwrap().entry.state.is_ended());
    let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    held_up.wait(SOON).await.unwrap().unwrap();
    let _ = stop.send(());
    worker.await.unwrap().unwrap();
}
