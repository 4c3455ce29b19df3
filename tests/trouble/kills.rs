//! Several worker processes on one file, some of them killed: judged from a log that the jobs
//! write themselves.

use std::time::Duration;

use crate::work::{Log, Running, SLOTS, Square, WINDOW, long, wait_for};
use millhand::{Client, Enqueued};

const WORKERS: usize = 4;
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_lose_nothing_when_some_are_killed_at_work() {
    let (jobs, kills) = if long() { (10_000, 10) } else { (4_000, 4) };
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("jobs.db"), dir.path().join("log"));
    let client = Client::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let squares = (0..jobs).map(|n| Square { n, millis: n % 10 });
    let enqueued = client.enqueue_many(squares).await;
    let start = {
        let (file, log) = (file.clone(), log.clone());
        move || Running::start(&log, &[&file])
    };
    let mut workers: Vec<Running> = (0..WORKERS).map(|_| start()).collect();

    let killer = {
        let mut log = Log::open(&log);
        std::thread::spawn(move || {
            let mut hits = 0;
            for at in (0..WORKERS).cycle() {
                if hits == kills {
                    return (workers, log);
                }
                let pid = workers[at].pid();
                wait_for("a worker at work", SOON, || log.is_at_work(pid));
                drop(std::mem::replace(&mut workers[at], start()));
                // Judged from the log after its death: only then does the kill count.
                hits += usize::from(log.is_at_work(pid));
            }
            unreachable!("a cycle has no end")
        })
    };

    let mut ids = Vec::new();
    for (n, enqueued) in (0..jobs).zip(enqueued) {
        let Enqueued::Accepted(id) = enqueued else {
            panic!("{enqueued:?}")
        };
        let result = client
            .handle::<Square>(id)
            .wait(Duration::from_secs(120))
            .await
            .unwrap();
        assert_eq!(result.unwrap(), n * n);
        ids.push(id.to_string());
    }
    let (workers, mut log) = killer.join().unwrap();
    let twice = log.twice();
    assert!(
        ids.iter().all(|id| log.ends.contains_key(id)),
        "a job has a result and never ran"
    );
    assert_eq!(log.ends.len(), ids.len(), "something ran that was not enqueued");
    println!("{jobs} jobs, {kills} kills at work: lost 0, ended twice {twice}");
    assert!(twice <= (SLOTS + WINDOW) * kills, "{twice} jobs ended twice");

    // The rest stops when it is told to, and leaves nothing behind.
    workers.into_iter().for_each(Running::stop);
    drop(client);
    let mut folder = file.into_os_string();
    folder.push(".workers");
    // The client's own files go when its task has seen that it is aborted.
    wait_for("an empty folder", SOON, || {
        std::fs::read_dir(&folder).unwrap().count() == 0
    });
}
