//! Jobs that run for longer than RabbitMQ waits for an acknowledgement, and than it is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millhand::{Client, Context, Failure, Task, Worker};
use millhand_proto::limits;
use millhand_servers::{Proxy, Rabbit, shared};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::work::long;

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
    let (timeout, length) = if long() { (60_000, 180_000) } else { (18_000, 26_000) };
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

/// A job that tells when it starts, and runs until it may end.
#[derive(Serialize, Deserialize)]
struct Held {
    n: usize,
}

impl Task for Held {
    const NAME: &'static str = "held";
    type Output = ();
}

const HELD: usize = 8;

/// Starts of each job, and the leave to end.
struct Starts {
    of: [AtomicUsize; HELD],
    may_end: tokio::sync::watch::Receiver<bool>,
}

async fn held(job: Held, cx: Context) -> Result<(), Failure> {
    let starts = Arc::clone(&cx.state::<Arc<Starts>>()?);
    starts.of[job.n].fetch_add(1, Ordering::SeqCst);
    let mut may_end = starts.may_end.clone();
    may_end.wait_for(|may| *may).await?;
    Ok(())
}

/// The lease must not hang on what goes to RabbitMQ: here running jobs are to let go of their deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_jobs_run_once_though_rabbitmq_is_away_for_longer_than_a_lease() {
    let rabbit = &shared().rabbit;
    let store = format!("{}?ns=away", shared().redis.url());
    let direct = format!("{}?ns=away", rabbit.url());
    let (to_busy, to_idle) = (Proxy::to(rabbit.port()), Proxy::to(rabbit.port()));
    let through = |proxy: &Proxy| format!("amqp://127.0.0.1:{}?ns=away", proxy.port());
    let (let_end, may_end) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let starts = Arc::new(Starts {
        of: Default::default(),
        may_end,
    });
    let start = |broker: &str| {
        let backend = millhand::fleet(broker, &store).unwrap();
        let worker = Worker::new(backend).state(Arc::clone(&starts)).on_async(held);
        let mut stopped = stopped.clone();
        tokio::spawn(worker.run(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }))
    };
    let counts = || starts.of.each_ref().map(|n| n.load(Ordering::SeqCst));

    let busy = start(&through(&to_busy));
    let client = Client::fleet(&direct, &store).await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..HELD {
        jobs.push(client.enqueue(Held { n }).await.unwrap());
    }
    until("every job runs", || counts() == [1; HELD]).await;
    let idle = start(&through(&to_idle));
    to_busy.cut();
    to_idle.cut();
    tokio::time::sleep(limits::DETACH_AFTER + limits::LEASE + limits::BEAT).await;
    // For the worker that runs the jobs it is away a little longer, so that the idle one meets all of them.
    to_idle.mend();
    until("the idle worker has met every job", || {
        let listed = rabbit.ctl(&["list_queues", "name", "messages"]);
        let rows = listed.lines().filter_map(|line| line.trim().rsplit_once('\t'));
        let rows: Vec<(&str, usize)> = rows.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect();
        let aside = rows.iter().filter(|(name, _)| !name.ends_with("q.default.normal"));
        aside.map(|(_, n)| n).sum::<usize>() >= HELD || counts() != [1; HELD]
    })
    .await;
    assert_eq!(counts(), [1; HELD], "starts of each job");
    to_busy.mend();
    let_end.send(true).unwrap();
    for job in jobs {
        job.wait(Duration::from_secs(30)).await.unwrap().unwrap();
    }
    assert_eq!(counts(), [1; HELD], "starts of each job");
    stop.send(true).unwrap();
    busy.await.unwrap().unwrap();
    idle.await.unwrap().unwrap();
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
