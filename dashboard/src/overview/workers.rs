//! The workers.

use std::time::Duration;

use askama::Template;
use millhand_broker::WorkerView;
use millhand_proto::words::{clean, human};
use millhand_proto::{QueueName, TaskName};

use crate::chart::{self, Svg};
use crate::checks;
use crate::figures::Moment;
use crate::icon::Icon;
use crate::say;

struct WorkerRow<'m> {
    view: &'m WorkerView,
    host: String,
    meter: Svg,
    queues: String,
    tasks: String,
    up: String,
    beat: String,
    late: bool,
    /// Why it is not ready; empty when it is.
    not_ready: String,
    lag: String,
    /// What held the async executor last.
    blocked: String,
}

#[derive(Template)]
#[template(path = "workers.html")]
pub(super) struct Workers<'m> {
    rows: Vec<WorkerRow<'m>>,
}

impl<'m> Workers<'m> {
    pub(super) fn of(moment: &'m Moment) -> Self {
        let row = |view: &'m WorkerView| {
            let beat = &view.beat;
            WorkerRow {
                view,
                host: clean(&beat.host, false),
                meter: chart::meter(beat.running, beat.slots),
                queues: listed(beat.queues.iter().map(QueueName::as_str)),
                tasks: listed(beat.tasks.iter().map(TaskName::as_str)),
                up: say::age(beat.started, moment.at),
                beat: say::age(view.at, moment.at),
                late: checks::is_late(view.at, moment.at),
                not_ready: clean(&beat.health.not_ready.join("; "), false),
                lag: beat
                    .health
                    .lag
                    .map_or_else(|| say::UNKNOWN.into(), |lag| micros(lag.p99)),
                blocked: beat.health.newest.first().map_or_else(String::new, |poll| {
                    format!("task {} held a thread for {}", poll.task, micros(poll.micros))
                }),
            }
        };
        Self {
            rows: moment.workers.iter().map(row).collect(),
        }
    }
}

fn micros(micros: u64) -> String {
    human(Duration::from_micros(micros))
}

/// Names side by side, the first few of them.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    const MOST: usize = 6;
    let all = names.len();
    let mut list = names.take(MOST).collect::<Vec<_>>().join(", ");
    if all > MOST {
        list.push_str(&format!(" and {} more", all - MOST));
    }
    if list.is_empty() { say::UNKNOWN.into() } else { list }
}
