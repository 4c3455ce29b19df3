//! The numbers on top of the page.

use askama::Template;
use millhand_broker::{Counts, WorkerView};
use millhand_proto::words::plural;
use millhand_proto::{Count, Histogram, Numbers};

use super::window::Window;
use crate::chart::{self, Svg};
use crate::checks;
use crate::figures::Moment;
use crate::range::Range;
use crate::say;

/// What stands over a number of what waits: jobs, unless it says otherwise.
pub(crate) const fn queued_head(counts: Counts) -> &'static str {
    match counts {
        Counts::Jobs => "Queued",
        Counts::Messages => "Queued messages",
    }
}

/// A number with its name, and what it is of.
struct Tile {
    name: &'static str,
    value: String,
    note: String,
    title: String,
    spark: Option<Svg>,
}

#[derive(Template)]
#[template(path = "tiles.html")]
pub(super) struct Tiles {
    tiles: Vec<Tile>,
}

impl Tiles {
    pub(super) fn of(moment: &Moment, window: &Window, range: Range) -> Self {
        let (all, name) = (&window.all, range.name());
        let unknown = moment.queues.iter().any(|q| q.trouble.is_some());
        let queued: u64 = moment.queues.iter().map(|q| q.queued).sum();
        let oldest = moment.queues.iter().filter_map(|q| q.oldest).min();
        let sum = |of: fn(&WorkerView) -> u32| moment.workers.iter().map(|w| u64::from(of(w))).sum::<u64>();
        let (running, slots) = (sum(|w| w.beat.running), sum(|w| w.beat.slots));
        let (failed, attempts) = checks::failed(all);
        let spark = |of: &dyn Fn(&Numbers) -> u64| {
            let values: Vec<u64> = window.buckets.iter().map(of).collect();
            Some(chart::spark(&values))
        };
        let percentile = |name, of: &Histogram| Tile {
            name,
            value: say::span(say::quantile(of, 0.95)),
            note: match say::quantile(of, 0.5) {
                Some(half) => format!("p50 {} · n {}", say::span(Some(half)), say::count(of.count())),
                None => format!("no samples in {name_of}", name_of = range.name()),
            },
            title: format!(
                "95 of 100 took no longer in the last {}; shown from 20 samples on",
                range.name()
            ),
            spark: None,
        };
        let tiles = vec![
            Tile {
                name: queued_head(moment.counts),
                value: if unknown {
                    format!("{}+", say::count(queued))
                } else {
                    say::count(queued)
                },
                note: match oldest {
                    _ if unknown => "not all queues could be asked".into(),
                    Some(at) => format!("oldest {}", say::age(at, moment.at)),
                    None if queued == 0 => "none waits".into(),
                    None => format!("oldest {}", say::UNKNOWN),
                },
                title: format!(
                    "{} due and waiting, in all queues",
                    plural(queued, moment.counts.word())
                ),
                spark: None,
            },
            Tile {
                name: "Running",
                value: say::count(running),
                note: if slots == 0 {
                    "no worker".into()
                } else {
                    format!("of {} slots", say::count(slots))
                },
                title: "slots in use, by the workers' last beats".into(),
                spark: None,
            },
            Tile {
                name: "Finished",
                value: say::rate(all.ended(), window.span),
                note: format!("{} in {name}", say::count(all.ended())),
                title: format!("{} jobs ended in the last {name}, however they did", all.ended()),
                spark: spark(&Numbers::ended),
            },
            Tile {
                name: "Failed attempts",
                value: say::share(failed, attempts),
                note: if attempts == 0 {
                    format!("no attempts in {name}")
                } else {
                    format!("{} of {}", say::count(failed), say::count(attempts))
                },
                title: format!("{failed} of {attempts} attempts in the last {name} failed, timed out or crashed"),
                spark: spark(&|numbers| numbers.get(Count::Failed)),
            },
            percentile("Wait p95", &all.wait),
            percentile("Run p95", &all.run),
        ];
        Self { tiles }
    }
}
