//! What the current thread used of its core, and what the scheduler took from it: asked so seldom that a
//! short poll pays two looks at the clock and no more.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How old what is known of a thread's CPU time may be when a poll begins: so much may be laid to it that
/// was not its own. What is shorter counts as CPU time whole.
const FINE: Duration = Duration::from_micros(100);
/// The same for what the scheduler took, which costs more to ask.
const COARSE: Duration = Duration::from_millis(1);

thread_local! {
    static METER: RefCell<Meter> = RefCell::new(Meter::here());
}

/// What is known of a thread, and since when.
struct Meter {
    queue: Option<RunQueue>,
    thread: u32,
    cpu: (Instant, Duration),
    taken: (Instant, Duration),
}

/// What a poll took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    /// Its CPU time, to within [`FINE`].
    pub(super) cpu: Duration,
    /// The time for which the thread was its own: without what the scheduler gave to others.
    pub(super) own: Duration,
}

impl Meter {
    fn here() -> Self {
        let now = Instant::now();
        let queue = RunQueue::open("/proc/thread-self");
        let thread = std::fs::read_link("/proc/thread-self")
            .ok()
            .and_then(|path| path.file_name()?.to_str()?.parse().ok());
        Self {
            taken: (now, queue.as_ref().and_then(RunQueue::waited).unwrap_or_default()),
            queue,
            thread: thread.unwrap_or(0),
            cpu: (now, cpu_time()),
        }
    }

    fn taken(&self) -> Duration {
        self.queue.as_ref().and_then(RunQueue::waited).unwrap_or_default()
    }
}

/// A poll begins on this thread. Answers the thread's number, 0 where it has none.
pub(super) fn begin(now: Instant) -> u32 {
    METER.with_borrow_mut(|meter| {
        if now.duration_since(meter.cpu.0) > FINE {
            meter.cpu = (now, cpu_time());
        }
        if now.duration_since(meter.taken.0) > COARSE {
            meter.taken = (now, meter.taken());
        }
        meter.thread
    })
}

/// The poll that began at `begun` ended.
pub(super) fn end(begun: Instant, now: Instant) -> Spent {
    let whole = now.duration_since(begun);
    if whole <= FINE {
        return Spent { cpu: whole, own: whole };
    }
    METER.with_borrow_mut(|meter| {
        let before = std::mem::replace(&mut meter.cpu, (now, cpu_time())).1;
        let cpu = meter.cpu.1.saturating_sub(before).min(whole);
        if whole <= COARSE {
            return Spent { cpu, own: whole };
        }
        let taken = meter.taken();
        let before = std::mem::replace(&mut meter.taken, (now, taken)).1;
        let own = whole.saturating_sub(taken.saturating_sub(before));
        Spent { cpu, own }
    })
}

/// The CPU time of this thread.
pub(super) fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}

/// How long a thread was ready to run and was not let, as Linux counts it.
pub(super) struct RunQueue(File);

impl RunQueue {
    /// Of the thread with this number in this process.
    pub(super) fn of(thread: u32) -> Option<Self> {
        Self::open(&format!("/proc/self/task/{thread}"))
    }

    fn open(folder: &str) -> Option<Self> {
        let this = Self(File::open(format!("{folder}/schedstat")).ok()?);
        this.waited().map(|_| this)
    }

    pub(super) fn waited(&self) -> Option<Duration> {
        self.field(1)
    }

    /// How long it was on a core.
    pub(super) fn ran(&self) -> Option<Duration> {
        self.field(0)
    }

    fn field(&self, at: usize) -> Option<Duration> {
        let mut text = [0; 96];
        let length = self.0.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        let nanos = text.split_ascii_whitespace().nth(at)?.parse().ok()?;
        Some(Duration::from_nanos(nanos))
    }
}

/// Whether a thread of this process runs or would like to: of the time since it last ran, nothing tells
/// then what the scheduler took.
pub(super) fn is_ready(thread: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('R'))
}

/// Whether the scheduler's part can be told at all.
pub(super) fn knows_the_scheduler() -> bool {
    RunQueue::open("/proc/thread-self").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(span: Duration) {
        let until = cpu_time() + span;
        while cpu_time() < until {
            std::hint::black_box(0);
        }
    }

    fn metered(work: impl FnOnce()) -> (Duration, Spent) {
        let begun = Instant::now();
        begin(begun);
        work();
        let now = Instant::now();
        (now - begun, end(begun, now))
    }

    #[test]
    fn sleep_is_the_threads_own_time_and_no_cpu_and_work_is_both() {
        let span = Duration::from_millis(40);
        let (_, slept) = metered(|| std::thread::sleep(span));
        assert!(slept.own >= Duration::from_millis(30), "{slept:?}");
        assert!(slept.cpu < Duration::from_millis(5), "{slept:?}");
        let (whole, worked) = metered(|| spin(span));
        assert!(worked.cpu >= span && worked.own <= whole, "{worked:?} of {whole:?}");
        // What the thread had of its core is its own.
        assert!(worked.own + Duration::from_millis(2) >= span, "{worked:?}");
    }

    #[test]
    fn what_the_scheduler_gave_to_others_is_not_the_threads_own() {
        if !knows_the_scheduler() {
            println!("no schedstat here: the scheduler's part cannot be told");
            return;
        }
        // More spinning threads than cores: each has its core for a part of the time only.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spinners = (0..cores * 3).map(|_| std::thread::spawn(|| metered(|| spin(Duration::from_millis(150)))));
        let spinners: Vec<_> = spinners.collect();
        for spinner in spinners {
            let (whole, spent) = spinner.join().unwrap();
            let off = spent.own.saturating_sub(spent.cpu);
            println!("{whole:?}: {spent:?}");
            // What a hypervisor takes is nobody's: on a busy host some of what the others got looks like it.
            let others = whole.saturating_sub(spent.cpu);
            assert!(
                off < (others / 3).max(Duration::from_millis(20)),
                "{spent:?} of {whole:?}"
            );
        }
    }
}
