//! What people and programs read.

use millhand_proto::{
    Class, Entry, JobId, Payload, Progress, QueueName, State, Tally, TaskName, Timestamp, WorkerId, limits,
};
use serde::{Deserialize, Serialize};

/// All that is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its class.
    pub class: Class,
    /// Its entry, with the result where it is kept.
    pub entry: Entry,
    /// Its arguments, where they are kept: until it runs, and when it is dead.
    pub args: Option<Payload>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In one of these states; all when empty.
    pub states: Vec<State>,
    /// Of this task.
    pub task: Option<TaskName>,
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// At most so many, at least 1.
    pub limit: usize,
}

/// A list of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<JobView>,
    /// Whether more match than were listed, as far as was looked.
    pub more: bool,
    /// Rows that were looked at.
    pub looked_at: usize,
    /// Whether everything was looked at.
    pub complete: bool,
}

/// A queue, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Its name.
    pub name: QueueName,
    /// Jobs that wait and are due, or their messages: see [`Facts::counts`](crate::Facts::counts).
    pub queued: u64,
    /// Jobs that are not due; `None` where they wait in places that all queues share.
    pub scheduled: Option<u64>,
    /// Jobs in a worker's hands.
    pub held: u64,
    /// Since when the oldest due job waits.
    pub oldest: Option<Timestamp>,
    /// Since when it is paused.
    pub paused: Option<Timestamp>,
    /// Why the queue could not be asked; then `queued` says nothing.
    pub trouble: Option<String>,
    /// Parcels of it, or of no known queue, that could not be read; newest first, at most
    /// [`limits::UNREADABLE_SHOWN`].
    pub unreadable: Vec<Unreadable>,
}

impl QueueView {
    /// Adds the next older one, while there is room.
    pub(crate) fn add_unreadable(&mut self, item: Unreadable) {
        if self.unreadable.len() < limits::UNREADABLE_SHOWN {
            self.unreadable.push(item);
        }
    }
}

/// Bytes that were in a queue and are no parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// When they were met.
    pub at: Timestamp,
    /// Why they cannot be read.
    pub reason: String,
    /// How many bytes.
    pub bytes: usize,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerBeat {
    /// This boot.
    pub worker: WorkerId,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Its queues.
    pub queues: Vec<QueueName>,
    /// The tasks that it runs, by name, as far as it names them.
    #[serde(default)]
    pub tasks: Vec<TaskName>,
    /// Its slots.
    pub slots: u32,
    /// Slots in use.
    pub running: u32,
    /// How far some of its running jobs say they are: at most [`limits::PROGRESS_JOBS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<(JobId, Progress)>,
    /// How it is.
    #[serde(default)]
    pub health: WorkerHealth,
}

/// How a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// Why it is not ready for work; empty when it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<String>,
    /// Thread slots whose jobs were asked to end and still run; they are not among its slots.
    #[serde(default)]
    pub leaked: u32,
    /// How late its async executor was in the last minute; `None` while nothing ran there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LoopLag>,
    /// Polls that held a thread of the async executor too long, since it started.
    #[serde(default)]
    pub long_polls: u64,
    /// The newest of them, a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest: Vec<LongPoll>,
}

/// How long a task that was ready waited for a thread of the async executor, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopLag {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
}

/// A poll that held a thread of the async executor too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongPoll {
    /// The task.
    pub task: TaskName,
    /// The job.
    pub job: JobId,
    /// How long it held the thread, in microseconds, without what the scheduler gave to others.
    pub micros: u64,
    /// How long other work on the executor was seen to wait meanwhile, in microseconds.
    pub others: u64,
    /// It had not ended yet.
    #[serde(default)]
    pub lasts: bool,
}

/// The oldest minute whose numbers are kept.
pub(crate) fn oldest_minute(now: Timestamp) -> u64 {
    Tally::minute_of(now).saturating_sub(limits::KEEP_STATS.as_secs() / 60)
}

/// A worker, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// What it said last.
    pub beat: WorkerBeat,
    /// When.
    pub at: Timestamp,
}

impl WorkerBeat {
    /// A worker that has not said more yet.
    #[must_use]
    pub fn new(worker: WorkerId, started: Timestamp, queues: Vec<QueueName>) -> Self {
        Self {
            worker,
            host: String::new(),
            pid: std::process::id(),
            started,
            queues,
            tasks: Vec::new(),
            slots: 0,
            running: 0,
            progress: Vec::new(),
            health: WorkerHealth::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_shows_its_newest_unreadable_messages() {
        let mut view = QueueView {
            name: QueueName::default(),
            queued: 0,
            scheduled: None,
            held: 0,
            oldest: None,
            paused: None,
            trouble: None,
            unreadable: Vec::new(),
        };
        for bytes in 0..=limits::UNREADABLE_SHOWN {
            assert_eq!(view.unreadable.len(), bytes);
            view.add_unreadable(Unreadable {
                at: Timestamp::default(),
                reason: String::new(),
                bytes,
            });
        }
        assert_eq!(view.unreadable.len(), limits::UNREADABLE_SHOWN);
        assert_eq!(view.unreadable[0].bytes, 0, "the first that came is the newest");
    }
}
