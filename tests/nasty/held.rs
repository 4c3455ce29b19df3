//! What this process, which is the worker, holds.

use std::fs::{read, read_dir, read_link, read_to_string};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::SOON;

/// In the environment of all that this process starts: its number.
const MARK: &str = "MILLHAND_NASTY";
/// A child's socket and its two pipes.
const OF_A_CHILD: usize = 3;
/// What the allocator may keep for later.
const SPREAD: usize = 32 << 20;

pub fn is_marked() -> bool {
    std::env::var_os(MARK).is_some()
}

/// `command` becomes this process: its number stays.
pub fn mark(command: &mut Command) -> &mut Command {
    command
        .env(MARK, std::process::id().to_string())
        // What it takes to name the lines of one stays in memory, and would fail the cases after it too.
        .env("RUST_BACKTRACE", "0")
}

/// Bytes of memory.
pub fn memory() -> usize {
    let statm = read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes of memory.
    memory: usize,
    /// Descriptors that are not a child's.
    descriptors: usize,
    /// Descriptors that stand for a process.
    processes: usize,
    /// Processes that this one started and that live.
    pub children: usize,
    /// Processes that one of those started, whoever their parent is now.
    strays: usize,
    /// Children that ended and that nobody looked after.
    zombies: usize,
}

impl Held {
    pub fn now() -> Self {
        let own = std::process::id();
        let (mut children, mut strays, mut zombies) = (0, 0, 0);
        let mark = format!("{MARK}={own}");
        for pid in read_dir("/proc").unwrap().flatten() {
            let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may end while it is looked at.
            let Ok(stat) = read(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let stat = String::from_utf8_lossy(&stat);
            let mut after_name = stat.rsplit(')').next().unwrap().split_whitespace();
            let (state, parent) = (after_name.next().unwrap(), after_name.next().unwrap());
            let mine = parent == own.to_string();
            let environment = read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|part| part == mark.as_bytes());
            match state {
                "Z" | "X" => zombies += usize::from(mine),
                _ if mine => children += 1,
                _ if marked && pid != own => strays += 1,
                _ => {}
            }
        }
        let (mut descriptors, mut processes) = (0_usize, 0);
        for descriptor in read_dir("/proc/self/fd").unwrap().flatten() {
            match read_link(descriptor.path()) {
                Ok(what) if what.to_str() == Some("anon_inode:[pidfd]") => processes += 1,
                _ => descriptors += 1,
            }
        }
        Self {
            memory: memory(),
            descriptors: descriptors.saturating_sub(OF_A_CHILD * children),
            processes,
            children,
            strays,
            zombies,
        }
    }

    /// Whether so much memory is as good as this.
    pub fn allows(&self, memory: usize) -> bool {
        memory <= self.memory + SPREAD
    }

    /// What it holds when nothing starts or ends any more.
    pub async fn at_rest() -> Self {
        let began = Instant::now();
        let mut last = Self::now();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = Self::now();
            let same = |held: &Self| (held.descriptors, held.children, held.strays, held.zombies);
            if same(&now) == same(&last) {
                assert_eq!((now.strays, now.zombies), (0, 0), "{now:?}");
                return now;
            }
            assert!(began.elapsed() < SOON, "it does not come to rest: {last:?}, {now:?}");
            last = now;
        }
    }

    /// Waits until this process holds no more than now, but for warm children.
    pub async fn is_back(&self) -> Self {
        self.until(|now| {
            self.allows(now.memory)
                && now.descriptors <= self.descriptors
                && now.processes <= now.children
                && (now.strays, now.zombies) == (0, 0)
        })
        .await
    }

    /// The same without a worker: there are no children either.
    pub async fn is_back_after_the_end(&self) -> Self {
        self.until(|now| {
            (now.processes, now.children, now.strays, now.zombies) == (0, 0, 0, 0)
                && now.descriptors <= self.descriptors
        })
        .await
    }

    async fn until(&self, back: impl Fn(&Self) -> bool) -> Self {
        let began = Instant::now();
        loop {
            let now = Self::now();
            if back(&now) {
                return now;
            }
            assert!(began.elapsed() < SOON, "it held {self:?} and holds {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
