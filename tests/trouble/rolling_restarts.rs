//! All workers are restarted, one after the other, again and again: nothing is lost, nothing dies.

use std::time::Duration;

use crate::work::{Log, Running, Square, long, wait_for};
use millhand::{Client, Enqueued, JobFilter, State};
use millhand_servers::shared;

const WORKERS: usize = 4;
const SOON: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_lose_nothing_and_kill_nothing() {
    let rounds = if long() { 25 } else { 3_u64 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let urls = [&shared().rabbit.url(), &shared().redis.url()].map(|url| format!("{url}?ns=rolling"));
    let client = Client::fleet(&urls[0], &urls[1]).await.unwrap();
    // More than are done in the whole time, so that every restart finds workers full of jobs.
    let jobs = 500 * rounds;
    let squares = (0..jobs).map(|n| Square {
        n,
        millis: 50 + n % 100,
    });
    let mut ids = Vec::new();
    for enqueued in client.enqueue_many(squares).await {
        assert!(matches!(enqueued, Enqueued::Accepted(_)), "{enqueued:?}");
        ids.push(enqueued.id());
    }
    let rolled = {
        let (path, urls) = (path.clone(), urls.clone());
        move || {
            let mut log = Log::open(&path);
            let mut workers: Vec<Running> = (0..WORKERS).map(|_| Running::start(&path, &urls)).collect();
            for _ in 0..rounds {
                for worker in &mut workers {
                    let pid = worker.pid();
                    wait_for("a worker at work", SOON, || {
                        log.is_at_work(pid) || log.ends.len() == usize::try_from(jobs).unwrap()
                    });
                    std::mem::replace(worker, Running::start(&path, &urls)).stop();
                }
            }
            (workers, log)
        }
    };
    let (workers, mut log) = tokio::task::spawn_blocking(rolled).await.unwrap();
    wait_for("every job's end", SOON, || log.read().ends.len() == ids.len());
    for (n, id) in (0..jobs).zip(&ids) {
        let result = client.handle::<Square>(*id).wait(SOON).await.unwrap();
        assert_eq!(result.unwrap(), n * n);
    }
    let dead = JobFilter {
        states: vec![State::Dead],
        limit: 10,
        ..JobFilter::default()
    };
    let dead = client.admin().list(dead).await.unwrap();
    assert!(dead.jobs.is_empty(), "{:?}", dead.jobs);
    println!(
        "{rounds} rolling restarts of {WORKERS} workers, {jobs} jobs: ended twice {}",
        log.twice()
    );
    assert_eq!(log.twice(), 0, "a job that was told to stop ended twice");
    workers.into_iter().for_each(Running::stop);
}
