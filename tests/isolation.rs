//! Jobs that hold what they run on cost nobody else anything: not the worker, not other executors, not
//! other jobs.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "trouble/work.rs"]
mod work;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millhand::{Backend, Client, Context, Failure, Health, Slots, Task, TaskOptions, Worker, WorkerError, limits};
use millhand_servers::shared;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(60);

/// Holds its thread until the gate opens.
#[derive(Serialize, Deserialize)]
struct Block;

impl Task for Block {
    const NAME: &'static str = "block";
    type Output = ();
}

/// Ends at once.
#[derive(Serialize, Deserialize)]
struct Short {
    n: usize,
}

impl Task for Short {
    const NAME: &'static str = "short";
    type Output = usize;
}

/// What the blocking jobs of a test share.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    runs: AtomicUsize,
}

impl Gate {
    fn hold(&self) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    async fn held(&self, count: usize) {
        until("the blocking jobs to run", || self.runs.load(Ordering::SeqCst) >= count).await;
    }
}

/// A worker that runs beside the test.
struct Running {
    health: Health,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    fn start(worker: Worker) -> Self {
        let health = worker.health();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(worker.run(async { drop(stopped.await) }));
        Self {
            health,
            stop: Some(stop),
            ended,
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        self.ended.await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < SOON, "no sign of {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn slots(asyncs: usize, threads: usize) -> Slots {
    Slots {
        asyncs,
        threads,
        processes: 0,
    }
}

/// All threads of the async executor are held for longer than a lease and than heartbeats may be missed.
async fn a_worker_lives_though_all_its_task_threads_are_blocked(backend: Arc<dyn Backend>) {
    let gate = Arc::<Gate>::default();
    let worker = || {
        let gate = Arc::clone(&gate);
        let block = move |_: Block, _: Context| {
            let gate = Arc::clone(&gate);
            async move {
                gate.hold();
                Ok(())
            }
        };
        Worker::new(Arc::clone(&backend))
            .slots(slots(10, 2))
            .on_async(block)
            .on_thread(|job: Short, _| Ok(job.n))
    };
    let client = Client::new(Arc::clone(&backend));
    let blocked = Running::start(worker().queues(["blocked", "shorts"]));
    let count = cores();
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(client.enqueue(millhand::Job::of(Block).queue("blocked")).await.unwrap());
    }
    gate.held(count).await;
    // It would run them, if their worker lost them.
    let heir = Running::start(worker().queues(["blocked"]));
    until("the heir", || heir.health.is_ready()).await;

    let span = Duration::from_secs(if work::long() { 60 } else { 17 });
    assert!(span > limits::LEASE);
    let began = Instant::now();
    let mut asked = Vec::new();
    let mut n = 0;
    while began.elapsed() < span {
        n += 1;
        let job = millhand::Job::of(Short { n }).queue("shorts");
        let short = client.enqueue(job).await.unwrap();
        assert_eq!(short.wait(SOON).await.unwrap().unwrap(), n);
        let at = Instant::now();
        let health = blocked.health.now();
        asked.push(at.elapsed());
        let blocked = |why: &String| why.starts_with("task block blocks a thread of the async executor");
        assert!(health.not_ready.iter().all(blocked), "{:?}", health.not_ready);
        let workers = client.admin().workers().await.unwrap();
        assert_eq!(workers.len(), 2, "both beat");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let now = backend.now();
    for worker in client.admin().workers().await.unwrap() {
        assert!(now.since(worker.at) < limits::LEASE, "its last beat is old");
    }
    asked.sort();
    let median = asked[asked.len() / 2];
    println!("{n} short jobs meanwhile; readiness asked in {median:?}");
    assert!(median < Duration::from_millis(1), "{median:?}");
    let health = blocked.health.now();
    assert_eq!(health.long_polls, count as u64, "{health:?}");
    assert!(health.lag.is_some_and(|lag| lag.p99 > 5_000_000), "{health:?}");

    gate.open.store(true, Ordering::SeqCst);
    for job in jobs {
        job.wait(SOON).await.unwrap().unwrap();
        let view = client.get(job.id()).await.unwrap().unwrap();
        assert_eq!(view.entry.attempts, 1);
        assert!(view.entry.receipt.unwrap().blocked.unwrap() > 10_000_000);
    }
    assert_eq!(gate.runs.load(Ordering::SeqCst), count, "each ran once");
    blocked.stop().await;
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_on_sqlite_lives_though_all_its_task_threads_are_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    a_worker_lives_though_all_its_task_threads_are_blocked(backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_a_fleet_lives_though_all_its_task_threads_are_blocked() {
    // RabbitMQ gives a connection up that misses two heartbeats.
    let broker = format!("{}?ns=blocked&heartbeat=3", shared().rabbit.url());
    let store = format!("{}?ns=blocked", shared().redis.url());
    let backend = millhand::fleet(&broker, &store).unwrap();
    a_worker_lives_though_all_its_task_threads_are_blocked(backend).await;
}

/// The only way that the long jobs let the short ones pass is another slot, in whichever worker it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_waits_behind_a_long_one_while_another_worker_idles() {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::<Gate>::default();
    let worker = || {
        let gate = Arc::clone(&gate);
        Worker::new(Arc::clone(&backend))
            .slots(slots(0, 2))
            .on_thread(move |_: Block, _| {
                gate.hold();
                Ok(())
            })
            .on_thread(|job: Short, _| Ok(job.n))
    };
    // Of four slots three are held, however the long jobs fell; long and short are mixed.
    let mut long = Vec::new();
    let mut shorts = Vec::new();
    for n in 0..60 {
        if n % 20 == 0 {
            long.push(client.enqueue(Block).await.unwrap());
        }
        shorts.push(client.enqueue(Short { n }).await.unwrap());
    }
    let workers = [Running::start(worker()), Running::start(worker())];
    for (n, short) in shorts.iter().enumerate() {
        assert_eq!(short.wait(SOON).await.unwrap().unwrap(), n);
    }
    assert_eq!(gate.runs.load(Ordering::SeqCst), 3, "the long ones run all the while");
    gate.open.store(true, Ordering::SeqCst);
    for job in long {
        job.wait(SOON).await.unwrap().unwrap();
    }
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_job_gets_all_its_slots_and_does_not_starve_behind_light_ones() {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let in_use = Arc::<AtomicUsize>::default();
    let ends = Arc::<Mutex<Vec<&'static str>>>::default();
    let run = |name: &'static str, weight: usize, span: Duration| {
        let (in_use, ends) = (Arc::clone(&in_use), Arc::clone(&ends));
        move || {
            let used = in_use.fetch_add(weight, Ordering::SeqCst) + weight;
            assert!(used <= 2, "{used} slots in use");
            std::thread::sleep(span);
            in_use.fetch_sub(weight, Ordering::SeqCst);
            ends.lock().unwrap().push(name);
        }
    };
    let heavy = TaskOptions {
        slots: Some(2),
        ..TaskOptions::default()
    };
    let both = |slots: Slots| {
        let light = run("light", 1, Duration::from_millis(300));
        let all = run("heavy", 2, Duration::from_millis(20));
        Worker::new(Arc::clone(&backend))
            .slots(slots)
            .on_thread(move |job: Short, _| {
                light();
                Ok(job.n)
            })
            .on_thread_with(heavy, move |_: Block, _| {
                all();
                Ok(())
            })
    };
    let refused = both(slots(0, 1)).check().unwrap_err();
    assert!(matches!(refused, WorkerError::TooHeavy { .. }), "{refused}");
    let mut jobs = vec![client.enqueue(Short { n: 0 }).await.unwrap()];
    let block = client.enqueue(Block).await.unwrap();
    for n in 1..30 {
        jobs.push(client.enqueue(Short { n }).await.unwrap());
    }
    let worker = Running::start(both(slots(0, 2)));
    block.wait(SOON).await.unwrap().unwrap();
    for job in jobs {
        job.wait(SOON).await.unwrap().unwrap();
    }
    let place = ends.lock().unwrap().iter().position(|name| *name == "heavy").unwrap();
    println!("{place} of 30 light jobs before the heavy one");
    assert!(place < 15, "{place} light jobs before it");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_threads_leak_says_that_it_is_not_ready_until_they_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::<Gate>::default();
    let holds = Arc::clone(&gate);
    let worker = Worker::new(Arc::clone(&backend))
        .slots(slots(0, 2))
        .on_thread(move |_: Block, _| {
            holds.hold();
            Ok(())
        })
        .on_thread(|job: Short, _| Ok::<_, Failure>(job.n));
    let mut worker = Running::start(worker);
    let stuck = client.enqueue(Block).await.unwrap();
    gate.held(1).await;
    client.cancel(stuck.id()).await.unwrap();
    while worker.health.is_ready() {
        assert!(worker.health.changed().await);
    }
    let health = worker.health.now();
    assert_eq!(health.leaked, 1);
    assert!(
        health.not_ready[0].starts_with("1 of its 2 thread slots are leaked"),
        "{health:?}"
    );
    // It goes on with what is left, and others are told with the next beat.
    let short = client.enqueue(Short { n: 7 }).await.unwrap();
    assert_eq!(short.wait(SOON).await.unwrap().unwrap(), 7);
    loop {
        let seen = client.admin().workers().await.unwrap();
        if seen[0].beat.health.leaked == 1 {
            assert_eq!((seen[0].beat.slots, seen[0].beat.running), (1, 0));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        client.get(stuck.id()).await.unwrap().unwrap().entry.state,
        millhand::State::Running
    );
    gate.open.store(true, Ordering::SeqCst);
    while !worker.health.is_ready() {
        assert!(worker.health.changed().await);
    }
    assert_eq!(worker.health.now().leaked, 0);
    worker.stop().await;
}
