//! The room: delivered jobs that wait for a slot. Which class's job goes next is decided here, when
//! a slot becomes free.
//!
//! A job may take several slots. While they are not free, lighter jobs pass it; but not for ever: once it
//! has waited for half of the time that a job may wait here, nothing behind it starts until it does. Like
//! any other it goes back to its queue when its time is over, since another worker may idle; but a worker
//! that turned it away remembers it, and when it meets it again, it keeps it and gathers slots for it at
//! once. So a heavy job is turned away at most once by each worker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use millhand_broker::DeliveryId;
use millhand_proto::{Class, JobCopy, JobId, QueueName, Timestamp, limits};

use crate::registry::Executor;

/// A job in the room.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) delivery: DeliveryId,
    pub(crate) copy: JobCopy,
    pub(crate) ready_at: Timestamp,
    pub(crate) taken_at: Timestamp,
    pub(crate) arrived_at: Timestamp,
    pub(crate) since: Instant,
    /// Slots that it takes.
    pub(crate) slots: usize,
}

/// How long lighter jobs pass one that finds too few slots.
const PATIENCE: Duration = limits::ROOM_WAIT.checked_div(2).unwrap();

/// Heavy jobs that an executor's line remembers to have turned away.
const REMEMBERED: usize = 64;

/// The waiting jobs of one executor, by class, each in the order it came.
#[derive(Debug, Default)]
struct Line {
    classes: [VecDeque<Waiting>; 3],
    /// What each class may still take before the shares are dealt anew.
    credit: [u32; 3],
    /// Heavy jobs that were turned away, the newest last.
    turned_away: VecDeque<JobId>,
}

impl Line {
    fn next(&mut self, free: usize, usable: usize, now: Instant) -> Option<Waiting> {
        for deal in [false, true] {
            if deal {
                for class in Class::ALL {
                    self.credit[at(class)] = class.weight();
                }
            }
            for class in Class::ALL {
                let at = at(class);
                if self.credit[at] == 0 {
                    continue;
                }
                for place in 0..self.classes[at].len() {
                    let job = &self.classes[at][place];
                    if job.slots <= free {
                        self.credit[at] -= 1;
                        let job = self.classes[at].remove(place)?;
                        self.turned_away.retain(|id| *id != job.copy.id());
                        return Some(job);
                    }
                    // Slots gather for it.
                    if job.slots <= usable && (now.duration_since(job.since) >= PATIENCE || self.stays(job, usable)) {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Whether it keeps its place until it has its slots: it was turned away before.
    fn stays(&self, job: &Waiting, usable: usize) -> bool {
        job.slots > 1 && job.slots <= usable && self.turned_away.contains(&job.copy.id())
    }

    fn overdue(&mut self, usable: usize, now: Instant) -> Vec<Waiting> {
        let late = |job: &Waiting| now.duration_since(job.since) >= limits::ROOM_WAIT && !self.stays(job, usable);
        if !self.classes.iter().flatten().any(late) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (at, class) in std::mem::take(&mut self.classes).into_iter().enumerate() {
            let (stay, go): (VecDeque<_>, VecDeque<_>) = class.into_iter().partition(|job| self.stays(job, usable));
            self.classes[at] = stay;
            out.extend(go);
        }
        self.turned_away
            .extend(out.iter().filter(|job| job.slots > 1).map(|job| job.copy.id()));
        let forgotten = self.turned_away.len().saturating_sub(REMEMBERED);
        self.turned_away.drain(..forgotten);
        out
    }
}

fn at(class: Class) -> usize {
    usize::from(class.number())
}

fn line(executor: Executor) -> usize {
    match executor {
        Executor::Async => 0,
        Executor::Thread => 1,
        Executor::Process => 2,
    }
}

/// All that waits in a worker.
#[derive(Debug, Default)]
pub(crate) struct Room {
    lines: [Line; 3],
}

impl Room {
    pub(crate) fn put(&mut self, executor: Executor, job: Waiting) {
        self.lines[line(executor)].classes[at(job.copy.core.class)].push_back(job);
    }

    /// The job that gets the executor's next free slots, of all that jobs can have: classes that wait
    /// share 8:4:1.
    pub(crate) fn next(&mut self, executor: Executor, free: usize, usable: usize, now: Instant) -> Option<Waiting> {
        self.lines[line(executor)].next(free, usable, now)
    }

    /// Whether a job keeps its place here until enough slots are free for it.
    pub(crate) fn gathers(&self, executor: Executor) -> bool {
        let line = &self.lines[line(executor)];
        line.classes.iter().flatten().any(|job| line.stays(job, usize::MAX))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|l| l.classes.iter().all(VecDeque::is_empty))
    }

    /// Takes out the jobs of an executor when one of them has waited too long for its slot.
    pub(crate) fn overdue(&mut self, executor: Executor, usable: usize, now: Instant) -> Vec<Waiting> {
        self.lines[line(executor)].overdue(usable, now)
    }

    /// Takes out the jobs for which `which` says so.
    pub(crate) fn take(&mut self, which: impl Fn(&QueueName) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for class in self.lines.iter_mut().flat_map(|l| l.classes.iter_mut()) {
            let (out, stay) = std::mem::take(class)
                .into_iter()
                .partition(|job| which(&job.copy.core.queue));
            *class = stay;
            taken.extend::<VecDeque<_>>(out);
        }
        taken
    }
}

/// How fast an executor works, as measured: it says how much to hold in advance.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    runs: u32,
    mean_micros: u64,
    /// Slow ones among the newest 64 runs, one bit each.
    slow: u64,
}

impl Pace {
    /// Runs before the measure counts.
    const ENOUGH: u32 = 20;

    pub(crate) fn ran(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.mean_micros = if self.runs == 0 {
            micros
        } else {
            (self.mean_micros / 8).saturating_mul(7).saturating_add(micros / 8)
        };
        self.runs = self.runs.saturating_add(1);
        self.slow = self.slow << 1 | u64::from(took > Duration::from_secs(1));
    }

    /// Jobs to hold beyond the slots: [`limits::ROOM_WORK`] of measured work, and none while the
    /// work is slow or unknown.
    pub(crate) fn room(&self, slots: usize) -> usize {
        // More than 3 of 64 over a second: the 95th percentile is.
        if self.runs < Self::ENOUGH || self.slow.count_ones() > 3 {
            return 0;
        }
        let work = u64::try_from(limits::ROOM_WORK.as_micros()).unwrap_or(u64::MAX);
        let each = usize::try_from(work / self.mean_micros.max(1)).unwrap_or(usize::MAX);
        each.saturating_mul(slots).min(Self::MOST)
    }

    /// What a crash makes run again, at the most, beyond the slots.
    const MOST: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;
    use millhand_proto::{Core, RetryWish, TaskName, TimeLimits};

    fn waiting(class: Class, since: Instant) -> Waiting {
        let core = Core {
            id: JobId::given("x"),
            task: TaskName::new("t").unwrap(),
            args: bytes::Bytes::new(),
            codec: 0,
            task_version: 0,
            queue: QueueName::default(),
            class,
            enqueued_at: Timestamp::MIN_WIRE,
            not_before: None,
            expires: None,
            limits: TimeLimits::default(),
            retry: RetryWish::default(),
            tags: vec![],
            parent: None,
            root: None,
            producer: None,
            mailbox: None,
            not_understood: vec![],
        };
        let at = Timestamp::MIN_WIRE;
        Waiting {
            delivery: DeliveryId(1),
            copy: JobCopy::first(core),
            ready_at: at,
            taken_at: at,
            arrived_at: at,
            since,
            slots: 1,
        }
    }

    fn heavy(name: &str, slots: usize, since: Instant) -> Waiting {
        let mut job = waiting(Class::Normal, since);
        let core = Core {
            id: JobId::given(name),
            ..Core::clone(&job.copy.core)
        };
        job.copy = JobCopy::first(core);
        Waiting { slots, ..job }
    }

    #[test]
    fn waiting_classes_share_eight_four_one_and_none_starves() {
        let mut room = Room::default();
        for class in Class::ALL {
            for _ in 0..26 {
                room.put(Executor::Async, waiting(class, Instant::now()));
            }
        }
        let mut got = [0; 3];
        for _ in 0..26 {
            got[at(room
                .next(Executor::Async, 1, 1, Instant::now())
                .unwrap()
                .copy
                .core
                .class)] += 1;
        }
        assert_eq!(got, [2, 8, 16]);
        assert_eq!(
            std::iter::from_fn(|| room.next(Executor::Async, 1, 1, Instant::now())).count(),
            52
        );
        assert!(room.is_empty());
    }

    #[test]
    fn one_job_that_waited_too_long_takes_its_line_back() {
        let mut room = Room::default();
        let now = Instant::now();
        room.put(Executor::Process, waiting(Class::Normal, now));
        room.put(Executor::Process, waiting(Class::Low, now + Duration::from_millis(900)));
        assert!(
            room.overdue(Executor::Process, 1, now + limits::ROOM_WAIT - Duration::from_nanos(1))
                .is_empty()
        );
        assert!(
            room.overdue(Executor::Async, 1, now + Duration::from_secs(9))
                .is_empty()
        );
        assert_eq!(room.overdue(Executor::Process, 1, now + limits::ROOM_WAIT).len(), 2);
    }

    #[test]
    fn light_jobs_pass_a_heavy_one_for_a_while_and_no_longer() {
        const E: Executor = Executor::Thread;
        let mut room = Room::default();
        let now = Instant::now();
        let id = |job: Option<Waiting>| job.map(|job| job.copy.id());
        room.put(E, heavy("heavy", 2, now));
        room.put(E, heavy("light", 1, now));
        room.put(E, heavy("later", 1, now));
        assert_eq!(id(room.next(E, 1, 2, now)), Some(JobId::given("light")));
        assert_eq!(id(room.next(E, 1, 2, now + PATIENCE)), None, "slots gather");
        assert_eq!(id(room.next(E, 2, 2, now + PATIENCE)), Some(JobId::given("heavy")));
        assert_eq!(id(room.next(E, 1, 2, now + PATIENCE)), Some(JobId::given("later")));
        // One that could never run here, while threads are leaked, stands in nobody's way.
        room.put(E, heavy("heavy", 2, now));
        room.put(E, heavy("light", 1, now));
        assert_eq!(id(room.next(E, 1, 1, now + PATIENCE)), Some(JobId::given("light")));
    }

    #[test]
    fn a_heavy_job_is_turned_away_once_and_then_keeps_its_place_until_it_runs() {
        const E: Executor = Executor::Thread;
        let mut room = Room::default();
        let mut now = Instant::now();
        let mut light = 0;
        // Light jobs without end, each as long as two looks, on two slots: never both are free by chance.
        let (mut busy, mut turned_away) = ([now, now + limits::ROOM_WAIT], 0);
        room.put(E, heavy("heavy", 2, now));
        for step in 0..200 {
            now += limits::ROOM_WAIT / 4;
            room.put(E, heavy(&format!("light {step}"), 1, now));
            let gone = room.overdue(E, 2, now);
            if gone.iter().any(|job| job.slots == 2) {
                turned_away += 1;
                // It comes again behind others.
                room.put(E, heavy("heavy", 2, now));
            }
            let free = busy.iter().filter(|until| **until <= now).count();
            match (free > 0).then(|| room.next(E, free, 2, now)).flatten() {
                Some(job) if job.slots == 2 => {
                    println!("{light} light jobs before it, turned away {turned_away} times");
                    assert_eq!(turned_away, 1);
                    assert!(!room.gathers(E));
                    return;
                }
                Some(_) => {
                    light += 1;
                    let slot = busy.iter_mut().find(|until| **until <= now).unwrap();
                    *slot = now + limits::ROOM_WAIT * 2;
                }
                None => {}
            }
        }
        panic!("starved behind {light} light jobs");
    }

    #[test]
    fn the_room_is_measured_and_small_for_slow_work() {
        let mut pace = Pace::default();
        (0..19).for_each(|_| pace.ran(Duration::from_millis(5)));
        assert_eq!(pace.room(4), 0, "not measured yet");
        (0..200).for_each(|_| pace.ran(Duration::from_millis(5)));
        assert_eq!(pace.room(4), 40);
        (0..4).for_each(|_| pace.ran(Duration::from_secs(2)));
        assert_eq!(pace.room(4), 0, "slow");
    }

    #[test]
    fn jobs_that_take_as_long_as_the_room_have_one_place_for_each_slot() {
        let room = |took| {
            let mut pace = Pace::default();
            (0..Pace::ENOUGH).for_each(|_| pace.ran(took));
            pace.room(4)
        };
        assert_eq!(room(limits::ROOM_WORK), 4);
        // The mean is kept in eighths of microseconds.
        assert_eq!(room(limits::ROOM_WORK + Duration::from_micros(8)), 0);
    }
}
