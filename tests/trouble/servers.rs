//! Ten workers on RabbitMQ and Redis, while workers and servers are killed, restarted, frozen and
//! emptied: nothing is lost, nothing is stuck, and the fleet goes on by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::work::{Log, Running, SLOTS, Square, WINDOW, long, wait_for};
use millhand::{Client, Enqueued, Job, JobId, WaitError};
use millhand_servers::{Rabbit, Redis};
use tokio::sync::Semaphore;

/// How long a fault may keep everybody busy, and the end may take.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillWorker,
    RestartRabbit,
    KillRabbit,
    RestartRedis,
    FreezeRedis,
    /// All keys are gone.
    FlushRedis,
    /// Killed, and started without its data.
    EmptyRedis,
}

struct Fleet {
    rabbit: Arc<Rabbit>,
    redis: Arc<Redis>,
    dir: tempfile::TempDir,
}

impl Fleet {
    fn start() -> Self {
        Self {
            rabbit: Arc::new(Rabbit::start()),
            redis: Arc::new(Redis::start()),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

/// Starts workers and does one fault after the other, each when its share of the jobs has ended.
struct Havoc {
    rabbit: Arc<Rabbit>,
    redis: Arc<Redis>,
    start: Box<dyn Fn() -> Running + Send>,
    workers: Vec<Running>,
    log: Log,
    kills: usize,
    /// Jobs unacknowledged when the store forgot.
    held: usize,
    frozen: Duration,
}

impl Havoc {
    fn run(mut self, jobs: usize, faults: Vec<Fault>) -> Self {
        let steps = faults.len() + 1;
        for (at, fault) in faults.into_iter().enumerate() {
            let share = jobs * (at + 1) / steps;
            wait_for(&format!("{share} jobs before {fault:?}"), PATIENCE, || {
                self.log.read().ends.len() >= share
            });
            let began = Instant::now();
            self.strike(at, fault);
            println!("{share:>6} jobs: {fault:?}, {:.1} s", began.elapsed().as_secs_f64());
        }
        self
    }

    fn strike(&mut self, at: usize, fault: Fault) {
        match fault {
            Fault::KillWorker => {
                // Judged from the log after its death: only a kill that hit jobs counts.
                for next in (0..self.workers.len()).cycle().skip(at) {
                    let pid = self.workers[next].pid();
                    wait_for("a worker at work", PATIENCE, || self.log.is_at_work(pid));
                    drop(std::mem::replace(&mut self.workers[next], (self.start)()));
                    self.kills += 1;
                    if self.log.is_at_work(pid) {
                        return;
                    }
                }
            }
            Fault::RestartRabbit => {
                self.rabbit.stop();
                self.rabbit.restart();
            }
            Fault::KillRabbit => {
                self.rabbit.kill();
                self.rabbit.restart();
            }
            Fault::RestartRedis => {
                self.redis.stop();
                self.redis.restart();
            }
            Fault::FreezeRedis => {
                self.redis.freeze();
                std::thread::sleep(self.frozen);
                self.redis.thaw();
            }
            Fault::FlushRedis => {
                self.held += numbers(&self.rabbit, "messages_unacknowledged").sum::<usize>();
                self.redis.flush();
            }
            Fault::EmptyRedis => {
                self.held += numbers(&self.rabbit, "messages_unacknowledged").sum::<usize>();
                self.redis.wipe_and_restart();
            }
        }
    }
}

/// This number of every queue.
fn numbers(rabbit: &Rabbit, what: &str) -> impl Iterator<Item = usize> {
    let listed = rabbit.ctl(&["list_queues", what]);
    let numbers: Vec<usize> = listed.lines().filter_map(|line| line.trim().parse().ok()).collect();
    numbers.into_iter()
}

/// Enqueues all, asking again with the same id for what nobody can say.
async fn enqueue(client: &Client, jobs: u64, millis: u64) -> Vec<JobId> {
    let mut ids = Vec::new();
    for from in (0..jobs).step_by(500) {
        let squares: Vec<Square> = (from..jobs.min(from + 500))
            .map(|n| Square {
                n,
                millis: millis / 2 + n * 7 % millis.max(1),
            })
            .collect();
        for (square, answer) in squares.clone().into_iter().zip(client.enqueue_many(squares).await) {
            let id = answer.id();
            let mut answer = answer;
            while !matches!(answer, Enqueued::Accepted(_)) {
                let again = Job::of(square.clone()).job_id(id);
                answer = client.enqueue_many([again]).await.remove(0);
            }
            ids.push(id);
        }
    }
    ids
}

async fn faults(workers: usize, jobs: u64, millis: u64, faults: Vec<Fault>) {
    let store_forgets = faults
        .iter()
        .any(|f| matches!(f, Fault::FlushRedis | Fault::EmptyRedis));
    let fleet = Fleet::start();
    let (broker, store) = (fleet.rabbit.url(), fleet.redis.url());
    let client = Client::fleet(&broker, &store).await.unwrap();
    let start = {
        let (log, place) = (fleet.log(), [broker, store]);
        Box::new(move || Running::start(&log, &place))
    };
    let havoc = Havoc {
        rabbit: Arc::clone(&fleet.rabbit),
        redis: Arc::clone(&fleet.redis),
        workers: (0..workers).map(|_| start()).collect(),
        start,
        log: Log::open(&fleet.log()),
        kills: 0,
        held: 0,
        frozen: Duration::from_secs(if long() { 30 } else { 8 }),
    };
    let count = usize::try_from(jobs).unwrap();
    let havoc = tokio::task::spawn_blocking(move || havoc.run(count, faults));

    let ids = enqueue(&client, jobs, millis).await;
    // All are waited for, a thousand at a time.
    let open = Arc::new(Semaphore::new(1000));
    let waits: Vec<_> = (0..jobs)
        .zip(&ids)
        .map(|(n, id)| {
            let (handle, open) = (client.handle::<Square>(*id), Arc::clone(&open));
            tokio::spawn(async move {
                let _one = open.acquire_owned().await.unwrap();
                let end = Instant::now() + Duration::from_secs(900);
                loop {
                    match handle.wait(end.saturating_duration_since(Instant::now())).await {
                        Ok(Ok(result)) => {
                            assert_eq!(result, n * n);
                            return true;
                        }
                        Ok(Err(failure)) => panic!("{}: {failure}", handle.id()),
                        // Its record is gone; the log says whether it ran.
                        Err(WaitError::Forgotten { .. } | WaitError::Unknown(_)) if store_forgets => return false,
                        // The servers are away: they come again.
                        Err(WaitError::Backend(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                        Err(error) => panic!("{}: {error}", handle.id()),
                    }
                }
            })
        })
        .collect();
    let mut forgotten = 0;
    for wait in waits {
        forgotten += usize::from(!wait.await.unwrap());
    }
    let mut havoc = havoc.await.unwrap();

    // None lost, none stuck: all have ended by the log, and no message is left.
    wait_for("every job's end", PATIENCE, || havoc.log.read().ends.len() >= ids.len());
    assert!(ids.iter().all(|id| havoc.log.ends.contains_key(&id.to_string())));
    assert_eq!(havoc.log.ends.len(), ids.len(), "something ran that was not enqueued");
    let end = Instant::now() + PATIENCE;
    while numbers(&fleet.rabbit, "messages").any(|n| n > 0) {
        let listed = ["list_queues", "name", "messages_ready", "messages_unacknowledged"];
        assert!(Instant::now() < end, "stuck:\n{}", fleet.rabbit.ctl(&listed));
    }
    let (keys, lasting) = fleet.redis.keys();
    assert!(lasting.is_empty(), "of {keys} keys these stay for ever: {lasting:?}");
    let (twice, kills) = (havoc.log.twice(), havoc.kills);
    let bound = (SLOTS + WINDOW) * kills + havoc.held;
    println!(
        "{jobs} jobs on {workers} workers, {kills} workers killed: lost 0, ended twice {twice} \
         (at most {bound}: {} by kills, {} unacknowledged when the store forgot), results forgotten {forgotten}",
        (SLOTS + WINDOW) * kills,
        havoc.held
    );
    assert!(twice <= bound, "{twice} jobs ended twice; the bound is {bound}");
    if !store_forgets {
        assert_eq!(forgotten, 0);
    }
    std::mem::take(&mut havoc.workers).into_iter().for_each(Running::stop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_servers_die_and_the_store_remembers() {
    use Fault::{FreezeRedis, KillRabbit, KillWorker, RestartRabbit, RestartRedis};
    if long() {
        let mut all = Vec::new();
        for round in 0..3 {
            all.extend([KillWorker, KillWorker, KillRabbit, KillWorker, RestartRabbit]);
            all.push([RestartRedis, FreezeRedis, KillWorker][round]);
        }
        faults(10, 50_000, 150, all).await;
    } else {
        let all = vec![
            KillWorker,
            KillRabbit,
            FreezeRedis,
            KillWorker,
            RestartRedis,
            RestartRabbit,
        ];
        faults(4, 4_000, 150, all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_forgets_in_the_middle() {
    use Fault::{EmptyRedis, FlushRedis, FreezeRedis, KillRabbit, KillWorker, RestartRabbit, RestartRedis};
    if long() {
        let mut all = Vec::new();
        for round in 0..3 {
            all.extend([
                KillWorker,
                FlushRedis,
                KillWorker,
                KillRabbit,
                KillWorker,
                RestartRabbit,
            ]);
            all.extend(
                [
                    [RestartRedis, EmptyRedis],
                    [FreezeRedis, FlushRedis],
                    [EmptyRedis, KillWorker],
                ][round],
            );
        }
        faults(10, 50_000, 150, all).await;
    } else {
        faults(4, 3_000, 300, vec![FlushRedis, KillWorker, EmptyRedis, KillRabbit]).await;
    }
}
