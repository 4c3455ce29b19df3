//! How this worker is: said with every beat, and when it changes.

use millhand_broker::WorkerHealth;
use millhand_proto::limits;

use super::Dispatch;
use crate::executors::watchdog::Watchdog;
use crate::registry::Executor;

impl Dispatch {
    fn dog(&self) -> Option<&Watchdog> {
        self.crew.executors.dog()
    }

    /// Whether async jobs are under way. By their slots: the executor may learn of one only when this loop
    /// sleeps again.
    pub(super) fn runs_async(&self) -> bool {
        let bench = self.benches.get(&Executor::Async);
        bench.is_some_and(|bench| bench.free < bench.slots)
    }

    /// Looks after the async executor; says it when a task begins to block it, and when it is free again.
    pub(super) fn look(&mut self) {
        self.crew.executors.look();
        let blocked = self.dog().is_some_and(|dog| !dog.blocking().is_empty());
        if blocked || self.blocked {
            self.say_health();
        }
        self.blocked = blocked;
    }

    /// So many thread slots are leaked now.
    pub(super) fn leaks(&mut self, leaked: usize) {
        if let Some(bench) = self.benches.get_mut(&Executor::Thread) {
            bench.leaked = leaked;
            self.set_flows();
            self.say_health();
        }
    }

    /// Says on the board how the worker is, and answers it.
    pub(super) fn say_health(&self) -> WorkerHealth {
        let dog = self.dog();
        let (long_polls, newest) = dog.map(Watchdog::long_polls).unwrap_or_default();
        let leaked = self.benches.values().map(|bench| bench.leaked).sum::<usize>();
        let health = WorkerHealth {
            not_ready: self.not_ready(),
            leaked: u32::try_from(leaked).unwrap_or(u32::MAX),
            lag: dog.and_then(Watchdog::lag),
            long_polls,
            newest,
        };
        self.board.say(health.clone());
        health
    }

    /// Why it should be given no more work. That a queue is paused is no reason: somebody wants it so, and
    /// the worker could.
    fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.taps.is_empty() {
            reasons.push("stopping: it takes no more jobs".to_owned());
        }
        let silent = self.silent();
        let taps = self
            .said
            .queues
            .iter()
            .filter_map(|queue| self.taps.get_key_value(queue));
        for (queue, tap) in taps {
            if let Some(why) = &tap.trouble {
                reasons.push(format!("nothing can come from queue {queue}: {why}"));
            } else if let Some(why) = tap.unasked.as_ref().filter(|_| silent.contains(queue)) {
                reasons.push(format!(
                    "nothing came from queue {queue} for {} s, and whether it should is not known: {why}",
                    tap.came.elapsed().as_secs()
                ));
            }
        }
        if let Some(bench) = self.benches.get(&Executor::Thread)
            && bench.leaked > 0
            && bench.leaked * 2 >= bench.slots
        {
            reasons.push(format!(
                "{} of its {} thread slots are leaked: jobs were asked to end and do not",
                bench.leaked, bench.slots
            ));
        }
        for (task, held) in self.dog().map(Watchdog::blocking).unwrap_or_default() {
            reasons.push(format!(
                "task {task} blocks a thread of the async executor, for {} ms now",
                held.as_millis()
            ));
        }
        let silent = match self.beaten.map(|at| at.elapsed()) {
            None => Some("no beat was answered yet".to_owned()),
            Some(silent) if silent > limits::LEASE => Some(format!("no beat was answered for {} s", silent.as_secs())),
            Some(_) => None,
        };
        if let Some(silent) = silent {
            let why = self.unbeaten.as_ref().map(|why| format!(": {why}"));
            reasons.push(silent + &why.unwrap_or_default());
        }
        reasons
    }
}
