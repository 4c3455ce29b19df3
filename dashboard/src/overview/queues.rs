//! The queues.

use std::collections::BTreeMap;

use askama::Template;
use millhand_broker::QueueView;
use millhand_proto::{Numbers, QueueName};

use super::queued_head;
use super::window::Window;
use crate::checks;
use crate::figures::Moment;
use crate::icon::Icon;
use crate::say;

struct QueueRow {
    name: QueueName,
    no_worker: bool,
    paused: Option<String>,
    queued: String,
    scheduled: String,
    held: String,
    oldest: String,
    finished: String,
    failed: String,
}

#[derive(Template)]
#[template(path = "queues.html")]
pub(super) struct Queues {
    rows: Vec<QueueRow>,
    /// What stands beside a number of what waits, where there is no head.
    label: String,
}

impl Queues {
    /// The queues that hold something, and those that are served or were used: they are empty.
    pub(super) fn of(moment: &Moment, window: &Window) -> Self {
        let mut all: BTreeMap<QueueName, Option<&QueueView>> = BTreeMap::new();
        let served = moment.workers.iter().flat_map(|w| &w.beat.queues);
        all.extend(served.chain(window.queues.keys()).map(|name| (name.clone(), None)));
        all.extend(moment.queues.iter().map(|view| (view.name.clone(), Some(view))));
        let none = Numbers::default();
        let row = |(name, view): (QueueName, Option<&QueueView>)| {
            let (failed, attempts) = checks::failed(window.queues.get(&name).unwrap_or(&none));
            let count = |of: fn(&QueueView) -> u64| say::count(view.map_or(0, of));
            let age = |at| say::age(at, moment.at);
            let unknown = || say::UNKNOWN.to_owned();
            QueueRow {
                no_worker: !checks::serves(moment, &name),
                paused: view.and_then(|view| view.paused).map(age),
                queued: match view {
                    Some(view) if view.trouble.is_some() => unknown(),
                    _ => count(|view| view.queued),
                },
                scheduled: view
                    .map_or(Some(0), |view| view.scheduled)
                    .map_or_else(unknown, say::count),
                held: count(|view| view.held),
                oldest: view.and_then(|view| view.oldest).map_or_else(unknown, age),
                finished: say::count(window.queues.get(&name).map_or(0, Numbers::ended)),
                failed: say::share(failed, attempts),
                name,
            }
        };
        Self {
            label: queued_head(moment.counts).to_lowercase(),
            rows: all.into_iter().map(row).collect(),
        }
    }
}
