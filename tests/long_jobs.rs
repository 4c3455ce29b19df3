//! A job that runs for longer than RabbitMQ waits for an acknowledgement.
#![allow(missing_docs, clippy::unwrap_used)]

mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millhand::{Client, Context, Failure, Task, Worker};
use millhand_servers::{Rabbit, shared};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Sleep {
    millis: u64,
}

impl Task for Sleep {
    const NAME: &'static str = "sleep";
    type Output = u64;
}

/// Jobs that ran, the long ones first.
#[derive(Default)]
struct Ran(AtomicUsize, AtomicUsize);

async fn sleep(job: Sleep, cx: Context) -> Result<u64, Failure> {
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    let ran = cx.state::<Arc<Ran>>()?;
    let count = if job.millis > 1000 { &ran.0 } else { &ran.1 };
    count.fetch_add(1, Ordering::SeqCst);
    Ok(job.millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_longer_than_the_consumer_timeout_ends_once_and_its_neighbours_are_untouched() {
    let (timeout, length) = if work::long() {
        (60_000, 180_000)
    } else {
        (14_000, 22_000)
    };
    let rabbit = Rabbit::with(&[("consumer_timeout", &timeout.to_string())]);
    // It looks once a minute; here it looks once a second.
    rabbit.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 1000)."]);
    let store = format!("{}?ns=long-jobs", shared().redis.url());
    let backend = millhand::fleet(&format!("{}?ns=long-jobs", rabbit.url()), &store).unwrap();
    let ran = Arc::<Ran>::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = Worker::new(Arc::clone(&backend))
        .state(Arc::clone(&ran))
        .on_async(sleep);
    let worker = tokio::spawn(worker.run(async {
        let _ = stopped.await;
    }));
    let client = Client::new(backend);
    let long = client.enqueue(Sleep { millis: length }).await.unwrap();
    let began = Instant::now();
    let mut neighbours = 0;
    while began.elapsed() < Duration::from_millis(length + 5_000) {
        let short = client.enqueue(Sleep { millis: 50 }).await.unwrap();
        assert_eq!(short.wait(Duration::from_secs(30)).await.unwrap().unwrap(), 50);
        neighbours += 1;
    }
    assert_eq!(long.wait(Duration::from_secs(60)).await.unwrap().unwrap(), length);
    let counts = (ran.0.load(Ordering::SeqCst), ran.1.load(Ordering::SeqCst));
    println!("{length} ms under a timeout of {timeout} ms, {neighbours} neighbours");
    assert_eq!(counts, (1, neighbours), "runs of the long job and of its neighbours");
    let view = client.get(long.id()).await.unwrap().unwrap();
    assert_eq!(view.entry.attempts, 1);
    // RabbitMQ had nothing to time out.
    let logs = std::fs::read_dir(rabbit.folder().join("log")).unwrap();
    let logs = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap_or_default());
    // 3.10 and 4.x word the rest differently.
    assert!(!logs.collect::<String>().contains("timed out waiting"));
    let _ = stop.send(());
    worker.await.unwrap().unwrap();
}
