//! Several worker processes on one file, some of them killed: judged from a log that the jobs
//! write themselves.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use millhand::{Client, Enqueued, Task};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Square {
    n: u64,
}

impl Task for Square {
    const NAME: &'static str = "square";
    type Output = u64;
}

const WORKERS: usize = 4;
const SLOTS: usize = 10;
const WINDOW: usize = 4 * SLOTS;

/// Ends its process with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(file: &Path, log: &Path) -> Running {
    let mut program: PathBuf = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.push("examples/fleet_worker");
    Running(
        Command::new(&program)
            .arg(file)
            .arg(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{program:?}: {e}; `cargo build -p millhand --examples` makes it")),
    )
}

/// Job and process of every line that says `what`.
fn lines(log: &Path, what: &str) -> Vec<(String, u32)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (kind, id, pid) = (words.next()?, words.next()?, words.next()?);
            (kind == what).then(|| (id.to_owned(), pid.parse().unwrap()))
        })
        .collect()
}

/// Whether the process had started a job that it did not end.
fn died_at_work(log: &Path, pid: u32) -> bool {
    let count = |what| lines(log, what).iter().filter(|(_, p)| *p == pid).count();
    count("start") > count("end")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        // A file has no event to await.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_lose_nothing_when_some_are_killed_at_work() {
    let (jobs, kills) = if std::env::var_os("MILLHAND_LONG").is_some() {
        (10_000, 10)
    } else {
        (4_000, 4)
    };
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("jobs.db"), dir.path().join("log"));
    let client = Client::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let enqueued = client.enqueue_many((0..jobs).map(|n| Square { n })).await;
    let mut workers: Vec<Running> = (0..WORKERS).map(|_| start(&file, &log)).collect();

    let killer = {
        let (file, log) = (file.clone(), log.clone());
        std::thread::spawn(move || {
            let mut hits = 0;
            let mut next = 0;
            while hits < kills {
                let at = next % WORKERS;
                next += 1;
                let pid = workers[at].0.id();
                wait_for("a worker at work", || died_at_work(&log, pid));
                drop(std::mem::replace(&mut workers[at], start(&file, &log)));
                // Judged from the log after its death: only then does the kill count.
                hits += usize::from(died_at_work(&log, pid));
            }
            workers
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
    let workers = killer.join().unwrap();

    let mut ends: HashMap<String, usize> = HashMap::new();
    for (id, _) in lines(&log, "end") {
        *ends.entry(id).or_default() += 1;
    }
    assert!(
        ids.iter().all(|id| ends.contains_key(id)),
        "a job has a result and never ran"
    );
    assert_eq!(ends.len(), ids.len(), "something ran that was not enqueued");
    let twice: usize = ends.values().map(|n| n - 1).sum();
    println!("{jobs} jobs, {kills} kills at work: lost 0, ended twice {twice}");
    assert!(twice <= (SLOTS + WINDOW) * kills, "{twice} jobs ended twice");

    // The rest stops when it is told to, and leaves nothing behind.
    for mut worker in workers {
        let told = Command::new("kill")
            .args(["-TERM", &worker.0.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
        assert!(worker.0.wait().unwrap().success());
    }
    drop(client);
    let mut folder = file.into_os_string();
    folder.push(".workers");
    // The client's own files go when its task has seen that it is aborted.
    wait_for("an empty folder", || std::fs::read_dir(&folder).unwrap().count() == 0);
}
