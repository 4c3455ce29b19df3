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
pub(crate) const CHECKS: usize = 8;

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
    let mut silent = moment
        .queues
        .iter()
        .filter_map(|q| Some((&q.name, q.trouble.as_deref()?)));
    if let Some((name, why)) = silent.next() {
        let others = match silent.count() {
            0 => String::new(),
            count => format!(" and {} more", say::count(count as u64)),
        };
        let why = millhand_proto::words::clean(why, false);
        problem("queues", format!("{name}{others}: what waits is not known: {why}"));
    }
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
    let present = sums(moment, this.saturating_sub(PRESENT - 1)..this + 1);
    let day = sums(moment, 0..this.saturating_sub(PRESENT - 1));
    // What a task was like before is known when all of the day is.
    for (task, sum) in present.iter().filter(|_| moment.day.percent().is_none()) {
        let before = day.get(task).copied().unwrap_or_default();
        if sum.attempts >= ATTEMPTS && sum.is_graver_than(before) {
            let was = if before.attempts == 0 {
                String::new()
            } else {
                format!(" (was {})", say::share(before.failed, before.attempts))
            };
            problem(
                "tasks",
                format!(
                    "{task}: {} of attempts failed in {PRESENT} min{was}",
                    say::share(sum.failed, sum.attempts)
                ),
            );
        }
    }
    let dead = present.values().fold(0u64, |all, sum| all.saturating_add(sum.dead));
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
    for worker in &moment.workers {
        let beat = &worker.beat;
        for reason in &beat.health.not_ready {
            problem(
                "workers",
                format!("worker {}:{} is not ready: {reason}", beat.host, beat.pid),
            );
        }
    }
    for queue in &moment.queues {
        if let Some(since) = queue.paused.filter(|at| now.since(*at) > PAUSE) {
            problem(
                "queues",
                format!("{} has been paused for {}", queue.name, say::age(since, now)),
            );
        }
        if !queue.unreadable.is_empty() {
            let count = queue.unreadable.len();
            let more = if count < limits::UNREADABLE_SHOWN {
                ""
            } else {
                " or more"
            };
            let messages = plural(count as u64, "message");
            problem("queues", format!("{}: {messages}{more} could not be read", queue.name));
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

/// What became of a task's attempts and jobs in some time.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    failed: u64,
    attempts: u64,
    dead: u64,
}

impl Sum {
    /// Whether a twentieth failed, and ten times what it was before.
    fn is_graver_than(self, before: Self) -> bool {
        let much = self.failed > 0 && self.failed.saturating_mul(20) >= self.attempts;
        let was = before.failed.saturating_mul(self.attempts).saturating_mul(10);
        much && self.failed.saturating_mul(before.attempts) >= was
    }
}

fn sums(moment: &Moment, minutes: std::ops::Range<u64>) -> BTreeMap<&TaskName, Sum> {
    let mut sums: BTreeMap<&TaskName, Sum> = BTreeMap::new();
    for tally in moment.day.tallies(minutes) {
        let sum = sums.entry(&tally.task).or_default();
        let (failed, attempts) = failed(&tally.numbers);
        sum.failed = sum.failed.saturating_add(failed);
        sum.attempts = sum.attempts.saturating_add(attempts);
        sum.dead = sum.dead.saturating_add(tally.numbers.get(Count::Dead));
    }
    sums
}

/// Attempts that failed, of all that were made.
pub(crate) fn failed(numbers: &Numbers) -> (u64, u64) {
    (numbers.get(Count::Failed), numbers.run.count())
}

#[cfg(test)]
mod tests {
    use millhand_broker::{QueueView, Unreadable, WorkerBeat, WorkerView};
    use millhand_proto::{Mailbox, QueueName};

    use super::*;
    use crate::day::Day;

    const NOW: Timestamp = Timestamp::from_micros(1_927_857_906_789_012);

    fn ago(secs: i64) -> Timestamp {
        Timestamp::from_micros(NOW.as_micros() - secs * 1_000_000)
    }

    fn queue(name: &str) -> QueueView {
        QueueView {
            name: QueueName::new(name).unwrap(),
            trouble: None,
            queued: 0,
            scheduled: None,
            held: 0,
            oldest: None,
            paused: None,
            unreadable: Vec::new(),
        }
    }

    fn worker(beat: Timestamp, queues: &[&str]) -> WorkerView {
        let queues = queues.iter().map(|name| QueueName::new(name).unwrap()).collect();
        let mut said = WorkerBeat::new(Mailbox::from_bytes([1; 16]), ago(900), queues);
        (said.host, said.pid) = ("here".into(), 7);
        WorkerView { beat: said, at: beat }
    }

    /// Numbers of task `t` so many minutes ago.
    fn tally(minutes: u64, failed: u64, attempts: u64, dead: u64) -> Tally {
        let minute = Tally::minute_of(NOW) - minutes;
        let mut tally = Tally::new(minute, QueueName::default(), TaskName::new("t").unwrap());
        let numbers = &mut tally.numbers;
        (0..failed).for_each(|_| numbers.count(Count::Failed));
        (0..dead).for_each(|_| numbers.count(Count::Dead));
        (0..attempts).for_each(|_| numbers.run.record(Duration::from_millis(1)));
        tally
    }

    fn day(tallies: Vec<Tally>) -> Day {
        Day::of(Tally::minute_of(NOW), tallies)
    }

    fn found(change: impl FnOnce(&mut Moment)) -> Vec<String> {
        let mut moment = Moment::empty(NOW);
        change(&mut moment);
        problems(&moment).into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn a_queue_that_cannot_be_asked_is_told_with_its_reason() {
        let silent = |name: &str| QueueView {
            trouble: Some("amqp://h cannot be reached".into()),
            ..queue(name)
        };
        let told = found(|moment| moment.queues = vec![queue("a"), silent("b"), silent("c")]);
        assert_eq!(
            told,
            ["b and 1 more: what waits is not known: amqp://h cannot be reached"]
        );
    }

    #[test]
    fn a_system_at_rest_or_at_work_has_no_problem() {
        assert!(found(|_| {}).is_empty());
        let fine = found(|moment| {
            moment.queues = vec![
                QueueView {
                    queued: 5,
                    oldest: Some(ago(59)),
                    ..queue("mail")
                },
                QueueView {
                    queued: 5,
                    paused: Some(ago(3599)),
                    oldest: Some(ago(9999)),
                    ..queue("paused")
                },
            ];
            moment.workers = vec![worker(ago(14), &["mail"])];
            moment.day = day(vec![tally(1, 0, 100, 0)]);
        });
        assert!(fine.is_empty(), "{fine:?}");
    }

    #[test]
    fn waiting_without_a_worker_or_too_long_is_a_problem() {
        let waits = |workers: Vec<WorkerView>| {
            found(|moment| {
                moment.queues = vec![QueueView {
                    queued: 12_410,
                    oldest: Some(ago(61)),
                    ..queue("mail")
                }];
                moment.workers = workers;
            })
        };
        assert_eq!(
            waits(vec![worker(ago(1), &["other"])]),
            ["mail: 12,410 waiting and no worker"]
        );
        assert_eq!(
            waits(vec![worker(ago(1), &["mail"])]),
            ["mail: the oldest job has waited 1 min 01 s"]
        );
        let late = waits(vec![worker(ago(16), &["mail"])]);
        assert_eq!(
            late,
            [
                "mail: 12,410 waiting and no worker",
                "worker here:7 has not beaten for 16 s"
            ]
        );
        let mut leaking = worker(ago(1), &["mail"]);
        leaking.beat.health.not_ready = vec!["1 of its 2 thread slots are leaked".into()];
        assert_eq!(
            waits(vec![leaking])[1],
            "worker here:7 is not ready: 1 of its 2 thread slots are leaked"
        );
    }

    #[test]
    fn failures_are_a_problem_when_they_are_many_and_more_than_before() {
        let fails = |tallies: Vec<Tally>| found(|moment| moment.day = day(tallies));
        assert_eq!(
            fails(vec![tally(3, 10, 100, 0)]),
            ["t: 10.0 % of attempts failed in 15 min"]
        );
        assert_eq!(
            fails(vec![tally(3, 10, 100, 0), tally(30, 1, 1000, 0)]),
            ["t: 10.0 % of attempts failed in 15 min (was 0.1 %)"]
        );
        // As bad as ever, too few to tell, under a twentieth, long ago.
        for fine in [
            vec![tally(3, 10, 100, 0), tally(30, 20, 1000, 0)],
            vec![tally(3, 19, 19, 0)],
            vec![tally(3, 4, 100, 0)],
            vec![tally(15, 50, 100, 9)],
        ] {
            assert_eq!(fails(fine), [""; 0]);
        }
        assert_eq!(fails(vec![tally(14, 0, 100, 2)]), ["2 jobs died in 15 min"]);
    }

    #[test]
    fn failures_without_bounds_are_compared_all_the_same() {
        let sum = |failed, attempts| Sum {
            failed,
            attempts,
            dead: 0,
        };
        assert!(sum(u64::MAX, u64::MAX).is_graver_than(sum(0, 1)));
        assert!(!sum(1, u64::MAX).is_graver_than(sum(u64::MAX, u64::MAX)));
    }

    #[test]
    fn a_forgotten_pause_and_unreadable_messages_are_problems() {
        let unreadable = Unreadable {
            at: ago(5),
            reason: "cut".into(),
            bytes: 3,
        };
        let all = found(|moment| {
            moment.queues = vec![
                QueueView {
                    paused: Some(ago(3601)),
                    ..queue("a")
                },
                QueueView {
                    unreadable: vec![unreadable.clone()],
                    ..queue("b")
                },
                QueueView {
                    unreadable: vec![unreadable; limits::UNREADABLE_SHOWN],
                    ..queue("c")
                },
            ];
        });
        assert_eq!(
            all,
            [
                "a has been paused for 1 h 00 min",
                "b: 1 message could not be read",
                "c: 10 messages or more could not be read"
            ]
        );
    }
}
