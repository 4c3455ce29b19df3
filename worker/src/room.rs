//! The room: delivered jobs that wait for a slot. Which class's job goes next is decided here, when
//! a slot becomes free.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use millhand_broker::DeliveryId;
use millhand_proto::{Class, JobCopy, QueueName, Timestamp, limits};

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
}

/// The waiting jobs of one executor, by class, each in the order it came.
#[derive(Debug, Default)]
struct Line {
    classes: [VecDeque<Waiting>; 3],
    /// What each class may still take before the shares are dealt anew.
    credit: [u32; 3],
}

impl Line {
    fn next(&mut self) -> Option<Waiting> {
        for deal in [false, true] {
            if deal {
                for class in Class::ALL {
                    self.credit[at(class)] = class.weight();
                }
            }
            for class in Class::ALL {
                let at = at(class);
                if self.credit[at] > 0
                    && let Some(job) = self.classes[at].pop_front()
                {
                    self.credit[at] -= 1;
                    return Some(job);
                }
            }
        }
        None
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

    /// The job that gets the executor's next free slot: classes that wait share 8:4:1.
    pub(crate) fn next(&mut self, executor: Executor) -> Option<Waiting> {
        self.lines[line(executor)].next()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|l| l.classes.iter().all(VecDeque::is_empty))
    }

    /// Takes out all jobs of an executor when one of them has waited too long for its slot.
    pub(crate) fn overdue(&mut self, executor: Executor, now: Instant) -> Vec<Waiting> {
        let line = &mut self.lines[line(executor)];
        let late = |job: &Waiting| now.duration_since(job.since) >= limits::ROOM_WAIT;
        if line.classes.iter().any(|class| class.front().is_some_and(late)) {
            line.classes.iter_mut().flat_map(std::mem::take).collect()
        } else {
            Vec::new()
        }
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
    use millhand_proto::{Core, JobId, RetryWish, TaskName, TimeLimits};

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
        }
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
            got[at(room.next(Executor::Async).unwrap().copy.core.class)] += 1;
        }
        assert_eq!(got, [2, 8, 16]);
        assert_eq!(std::iter::from_fn(|| room.next(Executor::Async)).count(), 52);
        assert!(room.is_empty());
    }

    #[test]
    fn one_job_that_waited_too_long_takes_its_line_back() {
        let mut room = Room::default();
        let now = Instant::now();
        room.put(Executor::Process, waiting(Class::Normal, now));
        room.put(Executor::Process, waiting(Class::Low, now + Duration::from_millis(900)));
        assert!(
            room.overdue(Executor::Process, now + Duration::from_millis(999))
                .is_empty()
        );
        assert!(room.overdue(Executor::Async, now + Duration::from_secs(9)).is_empty());
        assert_eq!(room.overdue(Executor::Process, now + Duration::from_secs(1)).len(), 2);
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
}
