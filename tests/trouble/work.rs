//! Worker processes that square numbers and log what they do, so that a run is judged from outside.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use millhand::Task;
use serde::{Deserialize, Serialize};

/// Slots of each worker.
pub const SLOTS: usize = 10;
/// Jobs of a worker that ended and may not be remembered yet.
pub const WINDOW: usize = 4 * SLOTS;

#[derive(Clone, Serialize, Deserialize)]
pub struct Square {
    pub n: u64,
    pub millis: u64,
}

impl Task for Square {
    const NAME: &'static str = "square";
    type Output = u64;
}

/// Ends its process with the test, however that ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a worker on what `place` names: a file, or the URLs of both servers.
    pub fn start(log: &Path, place: &[impl AsRef<OsStr>]) -> Self {
        let mut program: PathBuf = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/fleet_worker");
        let child = Command::new(&program).arg(log).args(place).spawn();
        Self(child.unwrap_or_else(|e| panic!("{program:?}: {e}; `cargo build -p millhand --examples` makes it")))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(mut self) {
        let told = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(told.unwrap().success());
        assert!(
            self.0.wait().unwrap().success(),
            "a worker that is told to stop ends with 0"
        );
    }
}

/// What the workers wrote, read as it grows.
pub struct Log {
    file: BufReader<std::fs::File>,
    line: String,
    /// Jobs that each process started and did not end.
    pub at_work: HashMap<u32, i64>,
    /// How often each job ended.
    pub ends: HashMap<String, usize>,
}

impl Log {
    pub fn open(path: &Path) -> Self {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(path);
        Self {
            file: BufReader::new(file.unwrap()),
            line: String::new(),
            at_work: HashMap::new(),
            ends: HashMap::new(),
        }
    }

    pub fn read(&mut self) -> &mut Self {
        while self.file.read_line(&mut self.line).unwrap() > 0 && self.line.ends_with('\n') {
            let mut words = self.line.split_whitespace();
            let (what, id, pid) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let at_work = self.at_work.entry(pid.parse().unwrap()).or_default();
            if what == "start" {
                *at_work += 1;
            } else {
                *at_work -= 1;
                *self.ends.entry(id.to_owned()).or_default() += 1;
            }
            self.line.clear();
        }
        self
    }

    /// Whether the process has started a job that it did not end.
    pub fn is_at_work(&mut self, pid: u32) -> bool {
        self.read().at_work.get(&pid).is_some_and(|jobs| *jobs > 0)
    }

    /// Ends beyond the first of each job.
    pub fn twice(&mut self) -> usize {
        self.read().ends.values().map(|n| n - 1).sum()
    }
}

/// Looks again and again: what another process writes into a file is no event here.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether the long forms of tests are asked for.
pub fn long() -> bool {
    std::env::var_os("MILLHAND_LONG").is_some()
}
