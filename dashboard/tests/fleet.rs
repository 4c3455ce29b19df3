//! A day of a fleet: a page comes at once, says how much of the day it knows, and the memory is bounded.
//!
//! In a process of its own, since its memory is measured.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{LONG, Site};
use millhand_broker::{Backend, BackendUrl, open};
use millhand_proto::{Count, QueueName, Tally, TaskName};

/// MiB that the process may need.
const MOST: u64 = 150;

/// What a day holds.
struct Fleet {
    tasks: u64,
    /// Durations of each task and minute that lie in buckets of their own.
    spread: u32,
}

impl Fleet {
    /// The long form is as big as a fleet is.
    fn of_this_run() -> Self {
        let is_long = std::env::var_os("MILLHAND_LONG").is_some();
        let (tasks, spread) = if is_long { (60, 40) } else { (20, 1) };
        Self { tasks, spread }
    }

    fn tally(&self, minute: u64, task: u64) -> Tally {
        let name = TaskName::new(&format!("reports.task-{task}")).unwrap();
        let queue = QueueName::new(["default", "mail", "reports"][usize::try_from(task % 3).unwrap()]).unwrap();
        let mut tally = Tally::new(minute, queue, name);
        for step in 0..self.spread {
            tally.numbers.count(Count::Succeeded);
            let span = Duration::from_micros(100 + task).mul_f64(1.1f64.powi(i32::try_from(step).unwrap()));
            tally.numbers.wait.record(span);
            tally.numbers.run.record(span * 10);
        }
        tally
    }

    /// Writes a day; answers its last minute.
    async fn fill(&self, backend: &dyn Backend) -> u64 {
        let this = Tally::minute_of(backend.now());
        for minute in this - 1439..=this {
            let tallies = (0..self.tasks).map(|task| self.tally(minute, task));
            backend.tally(minute, tallies.collect()).await.unwrap();
        }
        this
    }
}

/// The most memory that this process had since it was forgotten, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// How much of the day a page says that it knows; `None` when it knows all.
fn percent(page: &str) -> Option<u64> {
    let (_, rest) = page.split_once("Reading the last 24 h: ")?;
    let (percent, _) = rest.split_once(" %.").unwrap();
    Some(percent.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_a_fleet_is_read_piece_by_piece() {
    let servers = millhand_servers::shared();
    let broker = format!("{}?ns=fleet", servers.rabbit.url());
    let backend = open(&BackendUrl::of(&broker, Some(&servers.redis.url())).unwrap()).unwrap();
    let fleet = Fleet::of_this_run();
    let start = Instant::now();
    let last = fleet.fill(&*backend).await;
    eprintln!("filled in {:?}, {} MiB", start.elapsed(), peak());
    forget_peak();
    let site = Site::start(&backend).await;
    let start = Instant::now();
    let (mut known, mut looks) = (Some(0), 0);
    let page = loop {
        let asked = Instant::now();
        let page = site.get("/?range=24h").await;
        assert_eq!(page.status, 200, "{}", page.body);
        let now = percent(&page.body);
        eprintln!("{now:?} % in {:?}, {} MiB", asked.elapsed(), peak());
        looks += 1;
        if now.is_none() {
            break page.body;
        }
        assert!(now >= known, "{now:?} % after {known:?} %");
        assert!(start.elapsed() < LONG * 10, "{now:?} % is known");
        known = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    eprintln!("read in {:?}, {} MiB", start.elapsed(), peak());
    // Pages within a second show the same moment.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let asked = Instant::now();
    assert_eq!(percent(&site.get("/?range=24h").await.body), None);
    eprintln!("then a page in {:?}", asked.elapsed());
    assert!(looks > 1, "the first page came before the whole day was read");
    assert!(peak() < MOST, "{} MiB", peak());
    // Nothing is missing, and nothing is there twice; a quarter of an hour may end meanwhile.
    let ended = |quarter: u64| (last + 1 - (quarter * 15 + 15 - 1440)) * fleet.tasks * u64::from(fleet.spread);
    let now = Tally::minute_of(backend.now()) / 15;
    let shown = [now - 1, now].map(|quarter| format!("{} jobs ended in the last 24 h", ended(quarter)));
    assert!(shown.iter().any(|text| page.contains(text)), "{shown:?}: {page}");
    site.stop().await;
}
