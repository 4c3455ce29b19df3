//! `/live`, `/ready` and `/startup`, asked over HTTP as a supervisor asks: a worker that cannot work is not
//! ready and says why, and only one that hangs is not live.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use millhand::{
    Backend, Blocking, Client, Context, Failure, Health, QueueName, Slots, Task, TaskOptions, Worker, WorkerError,
    limits,
};
use millhand_servers::{Rabbit, Redis};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far longer than what is waited for takes.
const SOON: Duration = Duration::from_secs(90);

/// Holds its thread until the gate opens.
#[derive(Serialize, Deserialize)]
struct Block;

impl Task for Block {
    const NAME: &'static str = "block";
    type Output = ();
}

/// The same, and it may.
#[derive(Serialize, Deserialize)]
struct May;

impl Task for May {
    const NAME: &'static str = "may";
    type Output = ();
}

/// What the blocking jobs of a test share.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    runs: AtomicUsize,
    /// They compute meanwhile.
    spins: bool,
}

impl Gate {
    fn hold(&self) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            if self.spins {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Waits until so many jobs have begun to hold.
    async fn held(&self, count: usize) {
        let began = Instant::now();
        while self.runs.load(Ordering::SeqCst) < count {
            assert!(began.elapsed() < SOON, "the jobs do not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The code and the body of an answer.
fn ask(at: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A worker that runs beside the test.
struct Running {
    at: SocketAddr,
    health: Health,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    async fn start(worker: Worker) -> Self {
        let worker = worker.health_at(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut health = worker.health();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(worker.run(async { drop(stopped.await) }));
        let at = loop {
            if let Some(at) = health.address() {
                break at;
            }
            assert!(health.changed().await, "it ended");
        };
        Self {
            at,
            health,
            stop: Some(stop),
            ended,
        }
    }

    fn codes(&self) -> [u16; 3] {
        ["/live", "/ready", "/startup"].map(|path| ask(self.at, path).0)
    }

    /// Waits until it is ready; it is live all the time.
    async fn ready(&self) {
        self.until("that it is ready", |code, _| code == 200).await;
    }

    /// Waits until it is not ready for this reason, and answers all that it says; it is live all the time.
    async fn not_ready(&self, why: &str) -> String {
        self.until(why, |code, body| code == 503 && body.contains(why)).await
    }

    async fn until(&self, what: &str, done: impl Fn(u16, &str) -> bool) -> String {
        let began = Instant::now();
        loop {
            assert_eq!(ask(self.at, "/live").0, 200, "while it is waited for {what}");
            let (code, body) = ask(self.at, "/ready");
            if done(code, &body) {
                println!("{:>6.1} s: {code} {}", began.elapsed().as_secs_f64(), body.trim());
                return body;
            }
            assert!(began.elapsed() < SOON, "no sign of {what}: {code} {body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    async fn stop(mut self) {
        self.tell_to_stop();
        self.ended.await.unwrap().unwrap();
    }
}

fn slots(asyncs: usize, threads: usize) -> Slots {
    Slots {
        asyncs,
        threads,
        processes: 0,
    }
}

fn place() -> (tempfile::TempDir, Arc<dyn Backend>) {
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    (dir, backend)
}

fn holds<T>(gate: &Arc<Gate>) -> impl Fn(T, Context) -> std::future::Ready<Result<(), Failure>> + Send + Sync + use<T> {
    let gate = Arc::clone(gate);
    move |_, _| {
        gate.hold();
        std::future::ready(Ok(()))
    }
}

fn held<T>(gate: &Arc<Gate>) -> impl Fn(T, Context) -> Result<(), Failure> + Send + Sync + use<T> {
    let gate = Arc::clone(gate);
    move |_, _| {
        gate.hold();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_task_blocks_the_async_executor_says_so_until_it_lets_go() {
    let (_dir, backend) = place();
    let client = Client::new(Arc::clone(&backend));
    let (gate, allowed) = (Arc::<Gate>::default(), Arc::<Gate>::default());
    let may = TaskOptions {
        blocking: Blocking::Observe,
        ..TaskOptions::default()
    };
    let worker = Worker::new(backend)
        .slots(slots(4, 0))
        .on_async(holds::<Block>(&gate))
        .on_async_with(may, holds::<May>(&allowed));
    let worker = Running::start(worker).await;
    worker.ready().await;
    // Its registration says that it may.
    let patient = client.enqueue(May).await.unwrap();
    allowed.held(1).await;
    let mut health = worker.health.clone();
    while health.now().long_polls == 0 {
        assert!(health.changed().await);
    }
    assert_eq!(worker.codes(), [200, 200, 200]);
    allowed.open();
    patient.wait(SOON).await.unwrap().unwrap();

    let job = client.enqueue(Block).await.unwrap();
    let said = worker
        .not_ready("task block blocks a thread of the async executor")
        .await;
    // Not only with the next beat.
    let held = said.split("for ").nth(1).and_then(|rest| rest.split(' ').next());
    let held = Duration::from_millis(held.unwrap().parse().unwrap());
    assert!(held < limits::BEAT * 4 / 5, "{said}");
    gate.open();
    worker.ready().await;
    job.wait(SOON).await.unwrap().unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_threads_leak_says_so_until_they_come_back() {
    let (_dir, backend) = place();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::<Gate>::default();
    let worker = Worker::new(backend).slots(slots(0, 2)).on_thread(held::<Block>(&gate));
    let worker = Running::start(worker).await;
    worker.ready().await;
    let stuck = client.enqueue(Block).await.unwrap();
    gate.held(1).await;
    client.cancel(stuck.id()).await.unwrap();
    worker.not_ready("1 of its 2 thread slots are leaked").await;
    gate.open();
    worker.ready().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stops_says_so_at_once_and_answers_until_it_has_ended() {
    let (_dir, backend) = place();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::<Gate>::default();
    let worker = Worker::new(backend).slots(slots(0, 1)).on_thread(held::<Block>(&gate));
    let mut worker = Running::start(worker).await;
    worker.ready().await;
    let job = client.enqueue(Block).await.unwrap();
    gate.held(1).await;
    assert_eq!(worker.codes(), [200, 200, 200]);
    // A beat is said, and said again when it is answered: then the next is far away.
    let mut health = worker.health.clone();
    for _ in 0..2 {
        assert!(health.changed().await);
    }
    let told = Instant::now();
    worker.tell_to_stop();
    worker.not_ready("stopping: it takes no more jobs").await;
    assert!(told.elapsed() < limits::BEAT * 4 / 5, "{:?}", told.elapsed());
    assert_eq!(worker.codes(), [200, 503, 200]);
    gate.open();
    let at = worker.at;
    worker.stop().await;
    assert!(TcpStream::connect(at).is_err(), "its socket is gone with it");
    job.wait(SOON).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_had_ends_it_before_it_takes_a_job() {
    let (_dir, backend) = place();
    let client = Client::new(Arc::clone(&backend));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Arc::<Gate>::default();
    gate.open();
    let job = client.enqueue(Block).await.unwrap();
    let worker = Worker::new(backend)
        .on_thread(held::<Block>(&gate))
        .health_at(taken.local_addr().unwrap());
    let ended = worker.run(std::future::pending()).await;
    let error = ended.unwrap_err();
    assert!(matches!(error, WorkerError::Health { .. }), "{error}");
    assert!(
        error.to_string().contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
    let view = client.get(job.id()).await.unwrap().unwrap();
    assert_eq!(view.entry.state, millhand::State::Queued);
}

/// Asks many times, and prints how long the answers took.
fn measure(at: SocketAddr, what: &str) -> Duration {
    let mut took: Vec<_> = (0..2000)
        .map(|n| {
            let path = ["/live", "/ready", "/startup"][n % 3];
            let asked = Instant::now();
            ask(at, path);
            asked.elapsed()
        })
        .collect();
    took.sort_unstable();
    let [p50, p99] = [took.len() / 2, took.len() * 99 / 100].map(|place| took[place]);
    println!(
        "{what}: p50 {p50:?}, p99 {p99:?}, longest {:?}; with its connection",
        took[took.len() - 1]
    );
    p50
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_takes_no_time_even_while_tasks_spin_on_all_threads_of_the_async_executor() {
    let (_dir, backend) = place();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::new(Gate {
        spins: true,
        ..Gate::default()
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = Worker::new(backend)
        .slots(slots(2 * cores, 0))
        .on_async(holds::<Block>(&gate));
    let worker = Running::start(worker).await;
    worker.ready().await;
    measure(worker.at, "idle");
    let mut jobs = Vec::new();
    for _ in 0..cores {
        jobs.push(client.enqueue(Block).await.unwrap());
    }
    gate.held(cores).await;
    let median = measure(worker.at, &format!("{cores} tasks spin"));
    assert!(median < Duration::from_millis(250), "{median:?}");
    assert_eq!(ask(worker.at, "/live").0, 200);
    gate.open();
    for job in jobs {
        job.wait(SOON).await.unwrap().unwrap();
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_without_its_servers_is_not_ready_and_never_not_live() {
    let (rabbit, redis) = (Rabbit::start(), Redis::start());
    rabbit.stop();
    let backend = millhand::fleet(
        &format!("{}?ns=health", rabbit.url()),
        &format!("{}?ns=health", redis.url()),
    );
    let backend = backend.unwrap();
    let client = Client::new(Arc::clone(&backend));
    let gate = Arc::<Gate>::default();
    gate.open();
    let worker = Worker::new(backend).slots(slots(0, 1)).on_thread(held::<Block>(&gate));
    let worker = Running::start(worker).await;
    // It waits for RabbitMQ, which is no reason to start it again.
    worker.not_ready("it has not started yet").await;
    assert_eq!(worker.codes(), [200, 503, 503]);
    rabbit.restart();
    worker.ready().await;
    let declared = Instant::now();
    assert_eq!(worker.codes(), [200, 200, 200]);

    // A paused queue is as somebody wants it.
    let queue = QueueName::default();
    assert!(client.admin().pause(queue.clone()).await.unwrap());
    let mut health = worker.health.clone();
    for _ in 0..3 {
        assert!(health.changed().await);
        assert_eq!(worker.codes(), [200, 200, 200]);
    }
    assert!(client.admin().resume(queue).await.unwrap());

    rabbit.kill_when_queues_are_kept(declared);
    worker.not_ready("nothing can come from queue default").await;
    assert_eq!(worker.codes(), [200, 503, 200]);
    rabbit.restart();
    worker.ready().await;

    redis.kill();
    worker.not_ready("no beat was answered").await;
    assert_eq!(worker.codes(), [200, 503, 200]);
    redis.restart();
    worker.ready().await;

    // It works, too.
    let job = client.enqueue(Block).await.unwrap();
    job.wait(SOON).await.unwrap().unwrap();

    // RabbitMQ is there, and lets nobody consume.
    let (url, properties) = (rabbit.url(), lapin::ConnectionProperties::default());
    let connection = lapin::Connection::connect(&url, properties).await.unwrap();
    let name = "mh.health.1.q.default.normal";
    let channel = loop {
        let channel = connection.create_channel().await.unwrap();
        channel
            .queue_delete(name.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        let (plain, odd) = (QueueDeclareOptions::default(), lapin::types::FieldTable::default());
        // The worker may have made it again first.
        if channel.queue_declare(name.into(), plain, odd).await.is_ok() {
            break channel;
        }
    };
    worker.not_ready("nothing can come from queue default").await;
    assert_eq!(worker.codes(), [200, 503, 200]);
    channel
        .queue_delete(name.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    worker.ready().await;
    drop(connection);
    worker.stop().await;
}
