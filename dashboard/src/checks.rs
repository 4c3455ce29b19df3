//! What is wrong, by listed rules: each is a number against a number.

use std::collections::BTreeMap;
use std::time::Duration;

use millhand_proto::words::plural;
use millhand_proto::{Count, Numbers, Tally, TaskName, Timestamp, limits};

use crate::figures::Moment;
use crate::say;

/// A due job should not wait longer.
const WAIT: Duration = Duration::from_secs(60);
/// A pause may have been forgotten after this.
const PAUSE: Duration = Duration::from_secs(3600);
/// Minutes in which failures count as present.
const PRESENT: u64 = 15;
/// Attempts without which a share says nothing.
const ATTEMPTS: u64 = 20;

/// How many rules there are.
pub(crate) const CHECKS: usize = 7;

/// One thing that is wrong, and where on the page to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) text: String,
    pub(crate) proof: &'static str,
}

/// All that is wrong at this moment, the gravest first.
pub(crate) fn problems(moment: &Moment) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |proof, text| problems.push(Problem { text, proof });
    let now = moment.at;
    for queue in moment.queues.iter().filter(|q| q.paused.is_none()) {
        let name = &queue.name;
        if queue.queued > 0 && !serves(moment, name) {
            problem(
                "queues",
                format!("{name}: {} waiting and no worker", say::count(queue.queued)),
            );
        } else if let Some(oldest) = queue.oldest.filter(|at| now.since(*at) > WAIT) {
            problem(
                "queues",
                format!("{name}: the oldest job has waited {}", say::age(oldest, now)),
            );
        }
    }
    let this = Tally::minute_of(now);
    let present = tasks(moment, this.saturating_sub(PRESENT - 1)..this + 1);
    let day = tasks(moment, 0..this.saturating_sub(PRESENT - 1));
    for (task, numbers) in &present {
        let (failed, attempts) = failed(numbers);
        let before = day.get(task).map_or((0, 0), failed_of);
        // A twentieth, and ten times what it was before.
        let grave =
            failed * 20 >= attempts && failed.saturating_mul(before.1) >= before.0.saturating_mul(attempts) * 10;
        if attempts >= ATTEMPTS && failed > 0 && grave {
            let was = if before.1 == 0 {
                String::new()
            } else {
                format!(" (was {})", say::share(before.0, before.1))
            };
            problem(
                "tasks",
                format!(
                    "{task}: {} of attempts failed in {PRESENT} min{was}",
                    say::share(failed, attempts)
                ),
            );
        }
    }
    let dead = present.values().map(|numbers| numbers.get(Count::Dead)).sum();
    if dead > 0 {
        problem("dead", format!("{} died in {PRESENT} min", plural(dead, "job")));
    }
    for worker in moment.workers.iter().filter(|w| is_late(w.at, now)) {
        let beat = &worker.beat;
        problem(
            "workers",
            format!(
                "worker {}:{} has not beaten for {}",
                beat.host,
                beat.pid,
                say::age(worker.at, now)
            ),
        );
    }
    for queue in &moment.queues {
        if let Some(since) = queue.paused.filter(|at| now.since(*at) > PAUSE) {
            problem(
                "queues",
                format!("{} has been paused for {}", queue.name, say::age(since, now)),
            );
        }
        if !queue.unreadable.is_empty() {
            let count = queue.unreadable.len() as u64;
            problem(
                "queues",
                format!("{}: {} could not be read", queue.name, plural(count, "message")),
            );
        }
    }
    problems
}

/// Whether a worker that lives takes from this queue.
pub(crate) fn serves(moment: &Moment, queue: &millhand_proto::QueueName) -> bool {
    let mut living = moment.workers.iter().filter(|w| !is_late(w.at, moment.at));
    living.any(|worker| worker.beat.queues.contains(queue))
}

/// Whether a beat is so old that its worker may be dead.
pub(crate) fn is_late(beat: Timestamp, now: Timestamp) -> bool {
    now.since(beat) > limits::LEASE
}

fn tasks(moment: &Moment, minutes: std::ops::Range<u64>) -> BTreeMap<TaskName, Numbers> {
    let mut tasks: BTreeMap<TaskName, Numbers> = BTreeMap::new();
    for tally in moment.tallies(minutes) {
        tasks.entry(tally.task.clone()).or_default().merge(&tally.numbers);
    }
    tasks
}

/// Attempts that failed, of all that were made.
pub(crate) fn failed(numbers: &Numbers) -> (u64, u64) {
    (numbers.get(Count::Failed), numbers.run.count())
}

fn failed_of(numbers: &Numbers) -> (u64, u64) {
    failed(numbers)
}
