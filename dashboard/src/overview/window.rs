//! The numbers of a range, summed in the ways that the page needs.

use std::collections::BTreeMap;
use std::time::Duration;

use millhand_proto::{Numbers, QueueName, TaskName};

use crate::chart::Axis;
use crate::figures::Moment;
use crate::range::Range;

/// The numbers of a range, summed in the ways that the page needs.
pub(super) struct Window {
    pub(super) axis: Axis,
    pub(super) span: Duration,
    pub(super) buckets: Vec<Numbers>,
    pub(super) all: Numbers,
    pub(super) queues: BTreeMap<QueueName, Numbers>,
    pub(super) tasks: BTreeMap<(QueueName, TaskName), Numbers>,
}

impl Window {
    pub(super) fn of(moment: &Moment, range: Range) -> Self {
        let mut window = Self {
            axis: range.axis(moment.at),
            span: range.span(moment.at),
            buckets: Vec::new(),
            all: Numbers::default(),
            queues: BTreeMap::new(),
            tasks: BTreeMap::new(),
        };
        for minutes in range.buckets(moment.at) {
            let mut bucket = Numbers::default();
            for tally in moment.day.tallies(minutes) {
                let of = (tally.queue.clone(), tally.task.clone());
                window.tasks.entry(of).or_default().merge(&tally.numbers);
                bucket.merge(&tally.numbers);
            }
            window.all.merge(&bucket);
            window.buckets.push(bucket);
        }
        for ((queue, _), numbers) in &window.tasks {
            window.queues.entry(queue.clone()).or_default().merge(numbers);
        }
        window
    }
}
