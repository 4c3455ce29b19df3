//! An operator tries dead jobs again, again and again, while workers are at them.

use std::time::Duration;

use millhand::{Acted, Client, Context, Enqueued, Failure, JobFilter, JobId, State, Task, Worker};
use millhand_servers::shared;
use serde::{Deserialize, Serialize};

/// Fails at once: its next death may be written before its retry is.
#[derive(Serialize, Deserialize)]
struct Doomed {
    n: u64,
}

impl Task for Doomed {
    const NAME: &'static str = "doomed";
    type Output = ();
}

async fn doomed(_: Doomed, _: Context) -> Result<(), Failure> {
    Err(Failure::fatal("as always"))
}

const JOBS: u64 = 200;
const RETRIES: u32 = 5;
const SOON: Duration = Duration::from_secs(60);

async fn dead(client: &Client) -> Vec<JobId> {
    let filter = JobFilter {
        states: vec![State::Dead],
        limit: 10_000,
        ..JobFilter::default()
    };
    let page = client.admin().list(filter).await.unwrap();
    page.jobs.iter().map(|job| job.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_retry_is_one_more_attempt_however_soon_it_fails() {
    let urls = [&shared().rabbit.url(), &shared().redis.url()].map(|url| format!("{url}?ns=retries"));
    let client = Client::fleet(&urls[0], &urls[1]).await.unwrap();
    let enqueued = client.enqueue_many((0..JOBS).map(|n| Doomed { n })).await;
    let ids: Vec<JobId> = enqueued.iter().map(Enqueued::id).collect();
    let worker = Worker::new(millhand::fleet(&urls[0], &urls[1]).unwrap()).on_async(doomed);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));
    for retries in 0..=RETRIES {
        // Dead after so many attempts, all of them.
        for id in &ids {
            let ended = client.handle::<Doomed>(*id).wait(SOON).await;
            let failure = ended.unwrap_or_else(|error| panic!("after {retries} retries: {error}"));
            assert_eq!(failure.unwrap_err().attempts, retries + 1, "{id}");
        }
        if retries < RETRIES {
            let acted = client.admin().retry(ids.clone()).await.unwrap();
            assert!(acted.iter().all(|acted| *acted == Acted::Done), "retry {retries}");
        }
    }
    let mut listed = dead(&client).await;
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), ids.len(), "the dead in the list");
    let _ = stop.send(());
    worker.await.unwrap().unwrap();
}
