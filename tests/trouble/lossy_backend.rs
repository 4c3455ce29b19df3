//! A back end that loses requests and answers: nothing is lost, nothing counts twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millhand::{Backend, Client, Context, Enqueued, Failure, Job, State, Task, Worker};
use millhand_broker::faults::{Door, Fault, Faulty};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(30);

/// Fails `failures` times, then answers the number of its attempt.
#[derive(Serialize, Deserialize)]
struct Try {
    failures: u32,
}

impl Task for Try {
    const NAME: &'static str = "try";
    type Output = u32;
}

async fn attempt(job: Try, cx: Context) -> Result<u32, Failure> {
    cx.state::<Runs>()?.add();
    if cx.attempt() <= job.failures {
        return Err(Failure::new("not yet"));
    }
    Ok(cx.attempt())
}

/// How many runs there were, and word of each.
#[derive(Clone, Default)]
struct Runs(Arc<(AtomicU32, Notify)>);

impl Runs {
    fn add(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.notify_one();
    }

    async fn next(self) {
        self.0.1.notified().await;
    }
}

struct Bench {
    faulty: Arc<Faulty>,
    client: Client,
    runs: Runs,
}

impl Bench {
    fn new() -> Self {
        let faulty = Faulty::around(millhand::memory().unwrap());
        Self {
            client: Client::new(faulty.clone()),
            faulty,
            runs: Runs::default(),
        }
    }

    fn worker(&self) -> Worker {
        let backend: Arc<dyn Backend> = self.faulty.clone();
        Worker::new(backend).state(self.runs.clone()).on_async(attempt)
    }

    fn runs(&self) -> u32 {
        self.runs.0.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn lost_requests_and_answers_change_nothing_for_a_job() {
    for door in [Door::Claim, Door::Settle, Door::Read] {
        for fault in [Fault::RequestLost, Fault::AnswerLost] {
            let bench = Bench::new();
            let handle = bench.client.enqueue(Try { failures: 1 }).await.unwrap();
            bench.faulty.plan(door, fault, 2);
            bench.worker().run_until_idle().await.unwrap();
            let result = match handle.wait(LONG).await {
                // A read that fails is the caller's to repeat.
                Err(_) if door == Door::Read => {
                    while bench.faulty.left() > 0 {
                        let _ = bench.client.get(handle.id()).await;
                    }
                    handle.wait(LONG).await
                }
                result => result,
            };
            assert_eq!(result.unwrap().unwrap(), 2, "{door:?} {fault:?}");
            assert_eq!((bench.runs(), bench.faulty.left()), (2, 0), "{door:?} {fault:?}");
            let entry = bench.client.get(handle.id()).await.unwrap().unwrap().entry;
            assert_eq!(
                (entry.state, entry.attempts, entry.notes.len()),
                (State::Succeeded, 2, 1),
                "{door:?} {fault:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_unknown_is_enqueued_again_and_runs_once() {
    for fault in [Fault::RequestLost, Fault::AnswerLost] {
        let bench = Bench::new();
        bench.faulty.plan(Door::Push, fault, 1);
        let jobs = || (0..10).map(|_| Try { failures: 0 });
        let answers = bench.client.enqueue_packed(4, jobs()).await;
        let ids: Vec<_> = answers
            .iter()
            .map(|answer| match answer {
                Enqueued::Unknown { id, .. } => *id,
                other => panic!("unknown was expected: {other:?}"),
            })
            .collect();
        let again = jobs().zip(&ids).map(|(job, id)| Job::of(job).id(id.to_string()));
        for (answer, id) in bench.client.enqueue_many(again).await.into_iter().zip(&ids) {
            assert_eq!(answer, Enqueued::Accepted(*id));
        }
        bench.worker().run_until_idle().await.unwrap();
        assert_eq!(bench.runs(), 10, "{fault:?}");
    }
}

#[tokio::test]
async fn a_worker_stops_even_if_nothing_can_be_settled() {
    let bench = Bench::new();
    bench.client.enqueue(Try { failures: 0 }).await.unwrap();
    bench.faulty.plan(Door::Settle, Fault::RequestLost, 1_000_000);
    let started = Instant::now();
    let ran = bench.runs.clone().next();
    bench.worker().grace(Duration::from_millis(50)).run(ran).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // It is not forgotten: the next worker runs it again.
    bench.faulty.unplan();
    bench.worker().run_until_idle().await.unwrap();
    assert_eq!(bench.runs(), 2);
}
