//! Crash points: places on a job's path at which this process ends, or stands still, when its environment
//! says so. They are compiled in with the feature `crash-points` only, for tests that stop a process at every
//! step of what this crate promises.
//!
//! `MILLHAND_CRASH=settle.after_release:3` kills the process when it comes to that point for the third time;
//! `settle.after_release:3:stall` stops the thread that comes there for [`STALL`].

use std::time::Duration;

/// How long a thread stands still.
pub const STALL: Duration = Duration::from_secs(30);

/// What is done at a point, and what is not yet.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Its name in `MILLHAND_CRASH`.
    pub name: &'static str,
    /// Whether a fleet comes there.
    pub fleet: bool,
    /// Whether SQLite comes there.
    pub sqlite: bool,
    /// What has happened, in words.
    pub state: &'static str,
}

const fn both(name: &'static str, state: &'static str) -> Point {
    Point {
        name,
        fleet: true,
        sqlite: true,
        state,
    }
}

const fn sqlite(name: &'static str, state: &'static str) -> Point {
    Point {
        fleet: false,
        ..both(name, state)
    }
}

const fn fleet(name: &'static str, state: &'static str) -> Point {
    Point {
        sqlite: false,
        ..both(name, state)
    }
}

/// Every point, in the order of a job's path.
pub const POINTS: &[Point] = &[
    both("push.before", "nothing is in the queue"),
    both(
        "push.after",
        "the jobs are in the queue for good, and who enqueued does not know",
    ),
    both("deliver.after", "a parcel is in the worker's hands, nothing is claimed"),
    both("claim.before", "the attempt has its slot, nothing is written"),
    both("claim.after", "the claim is written, the handler has not begun"),
    both("settle.before", "the attempt ended, nothing is written"),
    fleet(
        "settle.after_children",
        "children are in the queue, the end is not written",
    ),
    fleet(
        "settle.after_remember",
        "the end, or what follows, is written; nothing is published",
    ),
    fleet(
        "settle.after_release",
        "the next copy is confirmed, which is not written",
    ),
    fleet(
        "settle.after_confirm",
        "the confirm is written, nothing is acknowledged",
    ),
    sqlite(
        "settle.before_commit",
        "all is written in a transaction that is not committed",
    ),
    both(
        "settle.after",
        "all is written and acknowledged, the worker does not know",
    ),
];

/// Comes to a point.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_: &str) {}

#[cfg(feature = "crash-points")]
pub(crate) use armed::point;

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{POINTS, STALL};

    struct Plan {
        name: String,
        at: u32,
        stalls: bool,
    }

    impl Plan {
        fn of(text: &str) -> Option<Self> {
            let mut words = text.split(':');
            let name = words
                .next()
                .filter(|name| POINTS.iter().any(|point| point.name == *name))?;
            let at = words.next().map_or(Some(1), |at| at.parse().ok())?;
            let stalls = match words.next() {
                None => false,
                Some("stall") => true,
                Some(_) => return None,
            };
            Some(Self {
                name: name.to_owned(),
                at,
                stalls,
            })
        }
    }

    /// Comes to a point.
    pub(crate) fn point(name: &str) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        static HITS: AtomicU32 = AtomicU32::new(0);
        let plan = PLAN.get_or_init(|| {
            let text = std::env::var("MILLHAND_CRASH").ok()?;
            let plan = Plan::of(&text);
            if plan.is_none() {
                // A test that does not crash where it should would pass.
                eprintln!("MILLHAND_CRASH: {text} is no crash point");
                std::process::exit(64);
            }
            plan
        });
        let Some(plan) = plan.as_ref().filter(|plan| plan.name == name) else {
            return;
        };
        if HITS.fetch_add(1, Ordering::SeqCst) + 1 != plan.at {
            return;
        }
        if plan.stalls {
            std::thread::sleep(STALL);
            return;
        }
        // As from outside: nothing is flushed and nothing is said.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_not_given_twice() {
        let mut names: Vec<_> = super::POINTS.iter().map(|point| point.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
