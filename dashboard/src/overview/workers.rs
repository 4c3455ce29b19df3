//! The workers.

use askama::Template;
use millhand_broker::WorkerView;
use millhand_proto::words::clean;
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
            }
        };
        Self {
            rows: moment.workers.iter().map(row).collect(),
        }
    }
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
