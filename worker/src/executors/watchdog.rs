//! The watchdog of the async executor: every poll of every job is timed, and one that holds its thread too
//! long is named. From the worker's own thread it also sees polls that do not end, and how late the
//! executor is.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Wakers, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use millhand_broker::LongPoll;
use millhand_proto::{JobId, TaskName};
use tokio::runtime::Handle;

use super::lag::Lag;
use super::meter::{self, RunQueue};
use crate::panics;
use crate::registry::{Blocking, Handled};

/// Long polls that are told of, the newest.
const NEWEST: usize = 5;
/// A task is warned about so often at most.
const WARN_AGAIN: Duration = Duration::from_secs(10);
/// Tasks of which it is known when they were warned about.
const WARNED: usize = 1000;

/// Watches the async executor of one worker.
pub(crate) struct Watchdog {
    limit: Duration,
    epoch: Instant,
    runs: Mutex<Runs>,
    long: Mutex<Long>,
    lag: Arc<Lag>,
}

/// The runs under way, each at a place of its own, so that to come and to go costs next to nothing.
#[derive(Default)]
struct Runs {
    places: Vec<Option<Arc<Polls>>>,
    free: Vec<usize>,
}

impl Runs {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn take_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    fn leave(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }
}

/// What was seen so far.
#[derive(Default)]
struct Long {
    count: u64,
    /// With the run and the beginning of the poll.
    newest: VecDeque<((usize, u64), LongPoll)>,
    warned: HashMap<TaskName, Instant>,
}

/// The polls of one run.
pub(super) struct Polls {
    place: usize,
    task: TaskName,
    job: JobId,
    blocking: Blocking,
    /// When the poll under way began, in nanoseconds since the watchdog did; 0 between two polls.
    since: AtomicU64,
    /// The thread of the newest poll.
    thread: AtomicU32,
    /// The poll under way was told of.
    told: AtomicBool,
    /// The longest poll and the CPU time of all, in nanoseconds.
    longest: AtomicU64,
    cpu: AtomicU64,
    /// What the last look saw.
    seen: Mutex<Option<Seen>>,
}

/// A poll, as a look found it under way.
#[derive(Clone, Copy)]
struct Seen {
    since: u64,
    at: Instant,
    taken: Option<Duration>,
    ran: Option<Duration>,
}

impl Polls {
    pub(super) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }

    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Watchdog {
    pub(super) fn new(limit: Duration) -> Self {
        if !meter::knows_the_scheduler() {
            tracing::info!(
                "there is no /proc/thread-self/schedstat: what a busy machine takes from a task counts as the task's"
            );
        }
        Self {
            limit,
            epoch: Instant::now(),
            runs: Mutex::default(),
            long: Mutex::default(),
            lag: Arc::default(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn long(&self) -> MutexGuard<'_, Long> {
        self.long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, time: Instant) -> u64 {
        nanos(time.duration_since(self.epoch)).max(1)
    }

    /// The future that `make` makes, watched until it is dropped.
    pub(super) fn watch<M>(
        self: &Arc<Self>,
        (task, job, blocking): (&TaskName, JobId, Blocking),
        make: M,
    ) -> (Watched<M>, Arc<Polls>)
    where
        M: FnOnce() -> BoxFuture<'static, Handled>,
    {
        let mut runs = self.runs();
        let polls = Arc::new(Polls {
            place: runs.take_place(),
            task: task.clone(),
            job,
            blocking,
            since: AtomicU64::new(0),
            thread: AtomicU32::new(0),
            told: AtomicBool::new(false),
            longest: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            seen: Mutex::new(None),
        });
        runs.places[polls.place] = Some(Arc::clone(&polls));
        drop(runs);
        let watched = Watched {
            stage: Stage::Made(make),
            polls: Arc::clone(&polls),
            dog: Arc::clone(self),
        };
        (watched, polls)
    }

    /// Whether no run is under way.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.runs().len() == 0
    }

    /// To be called often, from a thread that no task can hold: measures how late `tasks` is, and looks
    /// for polls that do not end.
    pub(crate) fn look(&self, tasks: &Handle) {
        self.lag.probe(tasks);
        let now = Instant::now();
        let lasting: Vec<_> = self
            .runs()
            .places
            .iter()
            .flatten()
            .filter(|polls| self.lasts(polls, now))
            .cloned()
            .collect();
        for polls in lasting {
            self.look_at(&polls, now);
        }
    }

    fn is_long(&self, held: Duration) -> bool {
        held > self.limit
    }

    fn lasts(&self, polls: &Polls, now: Instant) -> bool {
        let since = polls.since.load(Ordering::Acquire);
        let held = Duration::from_nanos(self.at(now).saturating_sub(since));
        since > 0 && self.is_long(held) && !polls.told.load(Ordering::Relaxed)
    }

    /// A poll under way lasts long. Between two looks is known what of the time the scheduler took.
    fn look_at(&self, polls: &Polls, now: Instant) {
        let since = polls.since.load(Ordering::Acquire);
        let thread = polls.thread.load(Ordering::Relaxed);
        let queue = RunQueue::of(thread);
        let taken = queue.as_ref().and_then(RunQueue::waited);
        let ran = queue.as_ref().and_then(RunQueue::ran);
        let seen = Seen {
            since,
            at: now,
            taken,
            ran,
        };
        let mut last = polls.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = last.filter(|before| before.since == since) else {
            *last = Some(seen);
            return;
        };
        let grown = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        let others = grown(taken, before.taken).unwrap_or_default();
        let own = now.duration_since(before.at).saturating_sub(others);
        // A thread that waits for a core is told so only when it has got one.
        let own = match grown(ran, before.ran) {
            Some(ran) if meter::is_ready(thread) => own.min(ran),
            _ => own,
        };
        let whole = Duration::from_nanos(self.at(now).saturating_sub(since));
        if self.is_long(own) && !polls.told.swap(true, Ordering::Relaxed) {
            self.tell(polls, since, whole, true);
        }
    }

    /// The poll that began at `begun` ended.
    fn polled(&self, polls: &Polls, begun: Instant) {
        let now = Instant::now();
        let since = polls.since.swap(0, Ordering::Release);
        let spent = meter::end(begun, now);
        polls.cpu.fetch_add(nanos(spent.cpu), Ordering::Relaxed);
        polls.longest.fetch_max(nanos(spent.own), Ordering::Relaxed);
        let told = polls.told.load(Ordering::Relaxed);
        if self.is_long(spent.own) || told {
            polls.told.store(false, Ordering::Relaxed);
            self.tell(polls, since, spent.own, false);
        }
    }

    /// Records a long poll, and says so.
    fn tell(&self, polls: &Polls, since: u64, own: Duration, lasts: bool) {
        let now = Instant::now();
        let begun = self.epoch + Duration::from_nanos(since);
        let others = self.lag.within(begun, now);
        let beside = self.runs().len().saturating_sub(1);
        let poll = LongPoll {
            task: polls.task.clone(),
            job: polls.job,
            micros: u64::try_from(own.as_micros()).unwrap_or(u64::MAX),
            others: u64::try_from(others.as_micros()).unwrap_or(u64::MAX),
            lasts,
        };
        let mut long = self.long();
        let key = (polls.place, since);
        match long.newest.iter().position(|(known, _)| *known == key) {
            Some(known) => long.newest[known].1 = poll,
            None => {
                long.count += 1;
                long.newest.truncate(NEWEST - 1);
                long.newest.push_front((key, poll));
            }
        }
        let fresh = |at: &Instant| now.duration_since(*at) < WARN_AGAIN;
        let said = long.warned.get(&polls.task).is_some_and(fresh);
        if polls.blocking == Blocking::Observe || (said && !lasts) {
            drop(long);
            tracing::debug!(task = %polls.task, job = %polls.job, ?own, ?others, "a poll was long");
            return;
        }
        if long.warned.len() >= WARNED {
            long.warned.clear();
        }
        long.warned.insert(polls.task.clone(), now);
        drop(long);
        let (task, job) = (&polls.task, polls.job);
        if lasts {
            tracing::warn!(%task, %job, held = ?own, others_waited = ?others, jobs_beside = beside, "the task blocks a thread of the async executor, and has not let go of it yet");
        } else {
            tracing::warn!(%task, %job, held = ?own, others_waited = ?others, jobs_beside = beside, "the task blocked a thread of the async executor: it belongs on the thread or process executor, or needs an await");
        }
    }

    /// Tasks that hold a thread of the executor beyond the limit now, but for those that may; a few, and for
    /// how long.
    pub(crate) fn blocking(&self) -> Vec<(TaskName, Duration)> {
        let now = self.at(Instant::now());
        let runs = self.runs();
        let blocks = |polls: &&Arc<Polls>| polls.told.load(Ordering::Relaxed) && polls.blocking != Blocking::Observe;
        let blocking = runs.places.iter().flatten().filter(blocks).filter_map(|polls| {
            let since = polls.since.load(Ordering::Acquire);
            let held = Duration::from_nanos(now.saturating_sub(since));
            (since > 0).then(|| (polls.task.clone(), held))
        });
        blocking.take(NEWEST).collect()
    }

    /// How late the executor was, at the median and the 99th percentile of the last minute.
    pub(crate) fn lag(&self) -> Option<millhand_broker::LoopLag> {
        self.lag.percentiles()
    }

    /// How many polls were long, and the newest of them.
    pub(crate) fn long_polls(&self) -> (u64, Vec<LongPoll>) {
        let long = self.long();
        (long.count, long.newest.iter().map(|(_, poll)| poll.clone()).collect())
    }
}

/// A handler's future with the watchdog around it. Its panic is an answer.
pub(super) struct Watched<M> {
    stage: Stage<M>,
    polls: Arc<Polls>,
    dog: Arc<Watchdog>,
}

enum Stage<M> {
    Made(M),
    Runs(BoxFuture<'static, Handled>),
    Over,
}

impl<M> Unpin for Watched<M> {}

impl<M> Future for Watched<M>
where
    M: FnOnce() -> BoxFuture<'static, Handled>,
{
    type Output = Result<Handled, String>;

    fn poll(mut self: Pin<&mut Self>, wakers: &mut Wakers<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let begun = Instant::now();
        this.polls.thread.store(meter::begin(begun), Ordering::Relaxed);
        this.polls.since.store(this.dog.at(begun), Ordering::Release);
        let polled = panics::catch(|| {
            // Making the future is the handler's code too, and so is dropping it.
            let mut future = match std::mem::replace(&mut this.stage, Stage::Over) {
                Stage::Made(make) => make(),
                Stage::Runs(future) => future,
                Stage::Over => return Poll::Pending,
            };
            let polled = future.as_mut().poll(wakers);
            if polled.is_pending() {
                this.stage = Stage::Runs(future);
            }
            polled
        });
        this.dog.polled(&this.polls, begun);
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(caught) => Poll::Ready(Err(caught.text())),
        }
    }
}

impl<M> Drop for Watched<M> {
    fn drop(&mut self) {
        self.dog.runs().leave(self.polls.place);
    }
}

#[cfg(test)]
mod tests {
    use millhand_proto::limits;

    use super::*;

    #[test]
    fn a_poll_is_long_when_it_lasts_longer_than_the_limit() {
        let dog = Arc::new(Watchdog::new(limits::BLOCK_LIMIT));
        let task = TaskName::new("t").unwrap();
        let never = || -> BoxFuture<'static, Handled> { unreachable!() };
        let (_run, polls) = dog.watch((&task, JobId::given("x"), Blocking::Observe), never);
        polls.since.store(1000, Ordering::Release);
        let lasts = |held| dog.lasts(&polls, dog.epoch + Duration::from_nanos(1000) + held);
        assert!(!lasts(limits::BLOCK_LIMIT));
        assert!(lasts(limits::BLOCK_LIMIT + Duration::from_nanos(1)));
    }
}
