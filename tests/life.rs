//! The life of a job through client, back end and worker, on memory and on a file.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millhand::{Backend, Client, Context, Count, Enqueued, Failure, Job, Numbers, State, Task, Worker, snooze};
use millhand_proto::Parcel;
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Act {
    how: String,
}

impl Task for Act {
    const NAME: &'static str = "act";
    type Output = u32;
}

fn act(how: &str) -> Act {
    Act { how: how.into() }
}

/// One task whose argument names its fate.
async fn fate(job: Act, cx: Context) -> Result<u32, Failure> {
    let runs = cx.state::<AtomicU32>()?.fetch_add(1, Ordering::SeqCst);
    match job.how.as_str() {
        "ok" => Ok(cx.attempt()),
        "fail twice" if cx.attempt() <= 2 => Err(Failure::new("not yet")),
        "fail twice" => Ok(cx.attempt()),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok(cx.attempt())
        }
        "fail" => Err(Failure::new("never")),
        "fatal" => Err(Failure::fatal("no use")),
        "panic" => panic!("the handler panicked"),
        "snooze" if runs == 0 => Err(snooze(Duration::from_secs(3600))),
        "snooze" => Ok(cx.attempt()),
        "big" => Err(Failure::new("x".repeat(100_000))),
        other => Err(Failure::fatal(format!("unknown fate {other}"))),
    }
}

fn worker(backend: &Arc<dyn Backend>) -> Worker {
    Worker::new(Arc::clone(backend)).state(AtomicU32::new(0)).on_async(fate)
}

#[tokio::test]
async fn a_job_succeeds_and_its_result_comes_back() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let handle = client.enqueue(act("ok")).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap().unwrap(), 1);
    let view = client.get(handle.id()).await.unwrap().unwrap();
    assert_eq!(view.entry.state, State::Succeeded);
    assert!(view.entry.receipt.unwrap().whole() > 0);
}

#[tokio::test]
async fn a_job_that_fails_twice_shows_three_attempts_and_growing_delays() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let handle = client.enqueue(act("fail twice")).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap().unwrap(), 3);
    let entry = client.get(handle.id()).await.unwrap().unwrap().entry;
    assert_eq!((entry.attempts, entry.notes.len(), entry.hand), (3, 2, 2));
    let waits: Vec<Duration> = entry.notes.iter().map(|n| n.next.unwrap().since(n.ended)).collect();
    assert!(
        waits[0] >= Duration::from_millis(7500) && waits[0] <= Duration::from_secs(15),
        "{waits:?}"
    );
    assert!(
        waits[1] >= Duration::from_secs(15) && waits[1] <= Duration::from_secs(30),
        "{waits:?}"
    );
    assert_eq!(entry.notes[0].error.as_ref().unwrap().as_str(), "not yet");
}

#[tokio::test]
async fn jobs_die_with_their_reason_and_come_back_when_retried() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let worn_out = client.enqueue(Job::of(act("fail")).retries(2)).await.unwrap();
    let fatal = client.enqueue(act("fatal")).await.unwrap();
    let panicked = client.enqueue(Job::of(act("panic")).retries(0)).await.unwrap();
    let big = client.enqueue(Job::of(act("big")).retries(0)).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    let entry = |id| async move { client.get(id).await.unwrap().unwrap().entry };
    let client = Client::new(Arc::clone(&backend));
    let read = |id| {
        let client = client.clone();
        async move { client.get(id).await.unwrap().unwrap() }
    };
    let _ = entry;
    for (id, reason, attempts, error) in [
        (worn_out.id(), "retries_exhausted", 3, "never"),
        (fatal.id(), "failed", 1, "no use"),
        (panicked.id(), "retries_exhausted", 1, "the handler panicked"),
        (big.id(), "retries_exhausted", 1, "xxx"),
    ] {
        let view = read(id).await;
        assert_eq!(view.entry.state, State::Dead, "{reason}");
        assert_eq!(view.entry.reason.as_deref(), Some(reason));
        assert_eq!(view.entry.attempts, attempts);
        assert!(
            view.entry
                .notes
                .last()
                .unwrap()
                .error
                .as_ref()
                .unwrap()
                .as_str()
                .contains(error)
        );
        assert!(view.args.is_some(), "a dead job keeps its arguments");
    }
    let failure = worn_out.wait(LONG).await.unwrap().unwrap_err();
    assert_eq!((failure.state, failure.attempts), (State::Dead, 3));

    client.admin().retry(vec![worn_out.id()]).await.unwrap();
    assert_eq!(read(worn_out.id()).await.entry.state, State::Queued);
    worker(&backend).run_until_idle().await.unwrap();
    let again = read(worn_out.id()).await.entry;
    assert_eq!((again.state, again.attempts), (State::Dead, 6), "three more attempts");
}

#[tokio::test]
async fn what_happened_can_be_read_as_numbers() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let before = backend.now();
    for how in ["slow", "slow", "slow", "fail twice", "fatal"] {
        client.enqueue(act(how)).await.unwrap();
    }
    let late = Job::of(act("ok")).expires_in(Duration::ZERO);
    client.enqueue(late).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    let stats = client.admin().stats(before, backend.now()).await.unwrap();
    let mut all = Numbers::default();
    for tally in &stats {
        assert_eq!((tally.queue.as_str(), tally.task.as_str()), ("default", "act"));
        all.merge(&tally.numbers);
    }
    let counts = Count::ALL.map(|what| (what.as_str(), all.get(what)));
    assert_eq!(
        counts,
        [
            ("succeeded", 4),
            ("dead", 1),
            ("cancelled", 0),
            ("expired", 1),
            ("retried", 2),
            ("snoozed", 0),
            ("failed", 3),
            ("crashed", 0),
        ]
    );
    assert_eq!((all.run.count(), all.wait.count()), (7, 7), "one each run");
    let slow = all.run.quantile(0.9).unwrap();
    assert!(slow >= Duration::from_millis(28) && slow < LONG, "{slow:?}");
    assert!(all.run.quantile(0.3).unwrap() < slow);
}

#[tokio::test]
async fn a_snoozed_job_runs_later_and_counts_no_attempt() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let before = backend.now();
    let handle = client.enqueue(act("snooze")).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap().unwrap(), 1, "still its first attempt");
    assert!(backend.now().since(before) >= Duration::from_secs(3600));
}

#[tokio::test]
async fn cancelled_and_expired_jobs_never_run() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let cancelled = client.enqueue(act("ok")).await.unwrap();
    let later = client
        .enqueue(Job::of(act("ok")).delay(Duration::from_secs(60)))
        .await
        .unwrap();
    let expired = client
        .enqueue(
            Job::of(act("ok"))
                .delay(Duration::from_secs(60))
                .expires_in(Duration::from_secs(30)),
        )
        .await;
    client.cancel(cancelled.id()).await.unwrap();
    client.cancel(later.id()).await.unwrap();
    worker(&backend).run_until_idle().await.unwrap();
    for id in [cancelled.id(), later.id()] {
        let entry = client.get(id).await.unwrap().unwrap().entry;
        assert_eq!((entry.state, entry.attempts), (State::Cancelled, 0));
    }
    if let Ok(expired) = expired {
        assert_eq!(
            client.get(expired.id()).await.unwrap().unwrap().entry.state,
            State::Expired
        );
    }
}

#[tokio::test]
async fn the_same_id_is_one_job() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let one = client.enqueue(Job::of(act("ok")).id("invoice 7")).await.unwrap();
    let two = client.enqueue(Job::of(act("ok")).id("invoice 7")).await.unwrap();
    assert_eq!(one.id(), two.id());
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    Worker::new(Arc::clone(&backend))
        .on_async(move |_: Act, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok(7) }
        })
        .run_until_idle()
        .await
        .unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_unknown_task_is_parked_for_a_day_and_then_dies() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let handle = client.enqueue(act("ok")).await.unwrap();
    Worker::new(Arc::clone(&backend)).run_until_idle().await.unwrap();
    let entry = client.get(handle.id()).await.unwrap().unwrap().entry;
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Dead, Some("parked_too_long"))
    );
    assert!(entry.parked.unwrap().why.contains("act"));
    assert_eq!(entry.attempts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_jobs_in_parcels_on_a_file_end_once_with_the_right_results() {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let mut ids = Vec::new();
    for pack in [1, 50] {
        let jobs = (0..500).map(|_| act("ok"));
        for enqueued in client.enqueue_packed(pack, jobs).await {
            let Enqueued::Accepted(id) = enqueued else {
                panic!("{enqueued:?}")
            };
            ids.push(id);
        }
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(worker(&backend).run(async {
        let _ = stopped.await;
    }));
    for id in ids {
        assert_eq!(client.handle::<Act>(id).wait(LONG).await.unwrap().unwrap(), 1);
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[derive(Serialize, Deserialize)]
struct Resize {
    w: u32,
    h: u32,
}

impl Task for Resize {
    const NAME: &'static str = "resize";
    type Output = u32;
}

async fn resize(job: Resize, _: Context) -> Result<u32, Failure> {
    Ok(job.w * job.h)
}

/// What a newer producer may write: a frozen parcel with fields that this version does not know.
#[tokio::test]
async fn unknown_fields_are_ignored_and_those_that_must_be_understood_park_a_job() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/tests/golden/unknown.hex");
    let hex: String = std::fs::read_to_string(path).unwrap().split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let must: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let mut may = must.clone();
    for key in [&b"Must"[..], b"Hop"] {
        let at = may.windows(key.len()).position(|w| w == key).unwrap();
        may[at].make_ascii_lowercase();
    }
    for (bytes, must) in [(may, false), (must, true)] {
        let backend = millhand::memory().unwrap();
        let parcel = Parcel::decode(&bytes.into()).unwrap().parcel.unwrap();
        let id = parcel.jobs()[0].id();
        backend.push(vec![parcel]).await;
        let worker = Worker::new(Arc::clone(&backend)).on_async(resize);
        worker.run_until_idle().await.unwrap();
        let entry = Client::new(backend).get(id).await.unwrap().unwrap().entry;
        if must {
            // Nobody came who understands them. Two attempts were made before this copy, none since.
            assert_eq!((entry.state, entry.attempts), (State::Dead, 2));
            assert_eq!(entry.reason.as_deref(), Some("parked_too_long"));
            assert_eq!(entry.parked.unwrap().why, "field Must, Hop is not known here");
        } else {
            assert_eq!((entry.state, entry.attempts), (State::Succeeded, 3));
        }
    }
}
