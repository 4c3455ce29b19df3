//! How far it is: a bar on a terminal, a line now and then in a pipe.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::figures;
use crate::output::grouped;

const WALKING: u8 = 0;
const COUNTING: u8 = 1;
const PROVING: u8 = 2;

const FIRST: Duration = Duration::from_millis(500);
const FRAME: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(10);

/// What has been done so far; read by the thread that draws.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: AtomicU8,
    bytes: AtomicU64,
    bytes_all: AtomicU64,
    files: AtomicU64,
    files_all: AtomicU64,
    jobs: AtomicU64,
    over: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl Progress {
    /// A file was found.
    pub(super) fn found(&self) {
        self.files_all.fetch_add(1, Ordering::Relaxed);
    }

    /// The jobs begin.
    pub(super) fn counting(&self, bytes: u64) {
        self.bytes_all.store(bytes, Ordering::Relaxed);
        self.begin(COUNTING);
    }

    /// The proof begins.
    pub(super) fn proving(&self) {
        self.begin(PROVING);
    }

    fn begin(&self, phase: u8) {
        self.bytes.store(0, Ordering::Relaxed);
        self.files.store(0, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn counted(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn job(&self) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    fn line(&self, ascii: bool) -> String {
        let files = grouped(self.files.load(Ordering::Relaxed));
        let files_all = grouped(self.files_all.load(Ordering::Relaxed));
        let phase = self.phase.load(Ordering::Relaxed);
        if phase == WALKING {
            return format!("walking: {files_all} files");
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        let all = self.bytes_all.load(Ordering::Relaxed).max(bytes).max(1);
        let since = self
            .since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Duration::ZERO, |s| s.elapsed());
        let rate = bytes as f64 / since.as_secs_f64().max(1e-3);
        let left = if bytes > 0 && since >= Duration::from_secs(2) {
            let left = Duration::from_secs_f64((all - bytes) as f64 / rate.max(1.0));
            format!(
                ", {} left",
                crate::times::human(Duration::from_secs(left.as_secs() + 1))
            )
        } else {
            String::new()
        };
        let jobs = match phase {
            PROVING => String::new(),
            _ => format!(", {} jobs", grouped(self.jobs.load(Ordering::Relaxed))),
        };
        let bar = bar(bytes, all, ascii);
        let word = if phase == PROVING { "proving" } else { "counting" };
        format!(
            "{word} {files}/{files_all} files {bar} {}/s{jobs}{left}",
            figures::rate_bytes(rate)
        )
    }
}

fn bar(done: u64, all: u64, ascii: bool) -> String {
    const WIDTH: u64 = 20;
    let full = (u128::from(done) * u128::from(WIDTH) / u128::from(all.max(1))).min(u128::from(WIDTH));
    let full = usize::try_from(full).unwrap_or(0);
    let (on, off) = if ascii { ("#", ".") } else { ("━", "─") };
    on.repeat(full) + &off.repeat(20 - full)
}

/// The thread that draws. Dropping it wipes the line.
#[derive(Debug)]
pub(super) struct Drawing {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Drawing {
    pub(super) fn start(progress: &Arc<Progress>, ascii: bool) -> Self {
        let shown = Arc::clone(progress);
        let thread = std::thread::Builder::new()
            .name("demo-progress".into())
            .spawn(move || draw(&shown, ascii))
            .ok();
        Self {
            progress: Arc::clone(progress),
            thread,
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.progress.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn draw(progress: &Progress, ascii: bool) {
    let terminal = std::io::stderr().is_terminal();
    let (first, each) = if terminal { (FIRST, FRAME) } else { (LINE, LINE) };
    let mut next = Instant::now() + first;
    let mut drawn = false;
    while !progress.over.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now < next {
            std::thread::park_timeout(next - now);
            continue;
        }
        next = now + each;
        let line = progress.line(ascii);
        // Whoever read it may be gone.
        let _ = if terminal {
            write!(std::io::stderr(), "\r\x1b[2K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
        drawn = terminal;
    }
    if drawn {
        let _ = write!(std::io::stderr(), "\r\x1b[2K");
    }
}
