//! Waiting costs next to nothing, and ends whatever happens to the servers.

use std::sync::Arc;
use std::time::Duration;

use millhand::{Backend, Client, Context, Enqueued, Failure, Handle, Job, Task, WaitError, Worker};
use millhand_servers::{Proxy, Rabbit, Redis, Reply};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[derive(Clone, Serialize, Deserialize)]
struct Square {
    n: u64,
}

impl Task for Square {
    const NAME: &'static str = "square";
    type Output = u64;
}

async fn square(job: Square, _: Context) -> Result<u64, Failure> {
    Ok(job.n * job.n)
}

/// Jobs of each of the ten queues.
const SHARE: u64 = 100;
/// How soon after the servers' return a wait must know.
const SOON: Duration = Duration::from_secs(10);

type Wait = JoinHandle<Result<u64, WaitError>>;

/// Commands that Redis has carried out, those that scripts call included.
fn commands(redis: &Redis) -> u64 {
    let info = redis.command(&["INFO", "commandstats"]);
    let calls = info.text().lines().filter(|line| !line.starts_with("cmdstat_info:"));
    calls
        .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok())
        .sum()
}

/// Runs the jobs of one queue, all of them, and stops.
async fn work(backend: &Arc<dyn Backend>, queue: usize) {
    let worker = Worker::new(Arc::clone(backend)).queues([name(queue).as_str()]);
    worker.on_async(square).run_until_idle().await.unwrap();
}

fn name(queue: usize) -> String {
    format!("q{queue}")
}

fn waits(handles: Vec<Handle<Square>>) -> Vec<Wait> {
    let wait = |handle: Handle<Square>| {
        tokio::spawn(async move {
            let result = handle.wait(Duration::from_secs(600)).await?;
            Ok(result.unwrap())
        })
    };
    handles.into_iter().map(wait).collect()
}

/// All of these end in time, each with its result.
async fn have_results(waits: &mut [Vec<Wait>], queue: usize) {
    let end = Instant::now() + SOON;
    for (n, wait) in (0..SHARE).zip(std::mem::take(&mut waits[queue])) {
        let ended = tokio::time::timeout_at(end, wait).await;
        let ended = ended.unwrap_or_else(|_| panic!("queue {queue}: job {n} ended, and its wait did not"));
        assert_eq!(ended.unwrap().unwrap(), n * n);
    }
    assert!(
        waits.iter().flatten().all(|wait| !wait.is_finished()),
        "a wait ended before its job"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waits_cost_little_and_outlive_what_happens_to_the_servers() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    let to_rabbit = Proxy::to(rabbit.port());
    let to_redis = Proxy::to(redis.port());
    let through = |proxy: &Proxy, scheme: &str| format!("{scheme}://127.0.0.1:{}", proxy.port());
    let (broker, store) = (through(&to_rabbit, "amqp"), through(&to_redis, "redis"));
    let client = Client::fleet(&broker, &store).await.unwrap();
    let workers = millhand::fleet(&rabbit.url(), &redis.url()).unwrap();

    let mut open: Vec<Vec<Wait>> = Vec::new();
    for queue in 0..10 {
        let jobs = (0..SHARE).map(|n| Job::of(Square { n }).queue(name(queue)));
        let mut handles = Vec::new();
        for enqueued in client.enqueue_many(jobs).await {
            assert!(matches!(enqueued, Enqueued::Accepted(_)), "{enqueued:?}");
            handles.push(client.handle::<Square>(enqueued.id()));
        }
        open.push(waits(handles));
    }

    // A client that waits for a thousand jobs is no burden.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = commands(&redis);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = commands(&redis) - before;
    println!("1,000 open waits: {asked} Redis commands in 10 s");
    assert!(asked <= 50, "{asked} commands");

    // Undisturbed.
    work(&workers, 0).await;
    have_results(&mut open, 0).await;

    // The client alone is cut off while jobs end.
    to_redis.cut();
    to_rabbit.cut();
    work(&workers, 1).await;
    assert!(open[1].iter().all(|wait| !wait.is_finished()));
    to_redis.mend();
    to_rabbit.mend();
    have_results(&mut open, 1).await;

    // RabbitMQ goes and comes.
    rabbit.kill();
    rabbit.restart();
    work(&workers, 2).await;
    have_results(&mut open, 2).await;

    // Redis goes while jobs end, and comes with what it wrote.
    let working = {
        let workers = Arc::clone(&workers);
        tokio::spawn(async move { work(&workers, 3).await })
    };
    redis.stop();
    redis.restart();
    working.await.unwrap();
    have_results(&mut open, 3).await;

    // Redis freezes, and goes on.
    redis.freeze();
    tokio::time::sleep(Duration::from_secs(7)).await;
    redis.thaw();
    work(&workers, 4).await;
    have_results(&mut open, 4).await;

    // The store forgets: who waits is told so, in time, and may wait again.
    redis.wipe_and_restart();
    let end = Instant::now() + SOON;
    let mut again = Vec::new();
    for wait in open.iter_mut().skip(5).flat_map(std::mem::take) {
        let ended = tokio::time::timeout_at(end, wait)
            .await
            .expect("a lost record is told in time");
        match ended.unwrap() {
            Err(WaitError::Forgotten { id, .. }) => again.push(client.handle::<Square>(id)),
            other => panic!("a record was lost, and the wait says {other:?}"),
        }
    }
    println!("the store forgot: {} waits ended with Forgotten", again.len());
    // The jobs are still there.
    for queue in 5..10 {
        work(&workers, queue).await;
    }
    for (n, handle) in (0..SHARE).cycle().zip(again) {
        let result = handle.wait(SOON).await;
        assert_eq!(result.unwrap().unwrap(), n * n);
    }
    assert_eq!(redis.command(&["PING"]), Reply::Text("PONG".into()));
}
