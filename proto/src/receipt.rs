//! Where a job's time went.

use serde::{Deserialize, Serialize};

/// Phases of one job's last attempt, in microseconds where nothing else is said, in the order they
/// happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// From the producer's call until the job was durable.
    #[serde(rename = "e", default)]
    pub enqueue: u64,
    /// In the queue, from durable and due until a worker took it.
    #[serde(rename = "q", default)]
    pub queue: u64,
    /// From the queue into the worker's room.
    #[serde(rename = "f", default)]
    pub fetch: u64,
    /// In the room, until a slot was free.
    #[serde(rename = "r", default)]
    pub room: u64,
    /// The claim.
    #[serde(rename = "c", default)]
    pub claim: u64,
    /// Between the claim and the attempt's end, all that the handler did not take: hand-over to thread or
    /// child and back, and a suspect's wait until no other suspect runs.
    #[serde(rename = "d", default)]
    pub dispatch: u64,
    /// The handler, by the wall clock.
    #[serde(rename = "w", default)]
    pub run: u64,
    /// The handler's CPU time, where the executor can tell; of an async job that of its polls, to within
    /// 0.1 ms each.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Encoding the result.
    #[serde(rename = "n", default)]
    pub encode: u64,
    /// The longest time that the handler held a thread of the async executor without an await; part of
    /// `run`.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<u64>,
    /// The start of the child process that this job had to wait for; part of `dispatch`.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// The most memory that the job's process was seen to hold, in **bytes**.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
}

impl Receipt {
    /// The phases with their names, in order; CPU time is part of `run` and not among them.
    #[must_use]
    pub fn phases(&self) -> [(&'static str, u64); 8] {
        [
            ("enqueue", self.enqueue),
            ("queue", self.queue),
            ("fetch", self.fetch),
            ("room", self.room),
            ("claim", self.claim),
            ("dispatch", self.dispatch),
            ("run", self.run),
            ("encode", self.encode),
        ]
    }

    /// From due and in the queue until a slot was free, in microseconds: what people call waiting.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.queue.saturating_add(self.fetch).saturating_add(self.room)
    }

    /// What Millhand's own moving of the job took, in microseconds: all phases but the run, and but the
    /// waits for capacity, which are `queue` and `room`.
    #[must_use]
    pub fn moved(&self) -> u64 {
        [self.enqueue, self.fetch, self.claim, self.dispatch, self.encode]
            .iter()
            .fold(0, |sum, micros| sum.saturating_add(*micros))
    }

    /// All phases together, in microseconds.
    #[must_use]
    pub fn whole(&self) -> u64 {
        self.phases().iter().map(|(_, micros)| micros).sum()
    }
}
