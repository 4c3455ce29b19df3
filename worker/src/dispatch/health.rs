//! How this worker is: said with every beat, and when it changes.

use millhand_broker::WorkerHealth;
use millhand_proto::limits;

use super::Dispatch;
use crate::registry::Executor;

impl Dispatch {
    /// Whether async jobs are under way.
    pub(super) fn runs_async(&self) -> bool {
        self.crew.executors.dog().is_some_and(|dog| !dog.is_idle())
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
        let dog = self.crew.executors.dog();
        let (long_polls, newest) = dog.map(|dog| dog.long_polls()).unwrap_or_default();
        let leaked = self.benches.values().map(|bench| bench.leaked).sum::<usize>();
        let health = WorkerHealth {
            not_ready: self.not_ready(),
            leaked: u32::try_from(leaked).unwrap_or(u32::MAX),
            lag: dog.and_then(|dog| dog.lag()),
            long_polls,
            newest,
        };
        self.board.say(health.clone());
        health
    }

    /// Why it should be given no more work.
    fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.taps.is_empty() {
            reasons.push("it stops, and takes no more jobs".to_owned());
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
        let silent = self.beaten.elapsed();
        if silent > limits::LEASE {
            reasons.push(format!("no beat was answered for {} s", silent.as_secs()));
        }
        reasons
    }
}
