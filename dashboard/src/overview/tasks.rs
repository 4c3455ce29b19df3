//! The tasks of a range.

use askama::Template;
use millhand_proto::{QueueName, TaskName};

use super::window::Window;
use crate::checks;
use crate::icon::Icon;
use crate::say;

/// Tasks that are listed, those that fail and those that run most first.
const TASKS: usize = 20;

struct TaskRow<'w> {
    task: &'w TaskName,
    queue: &'w QueueName,
    finished: String,
    failed: String,
    failing: bool,
    wait: [String; 2],
    run: [String; 3],
}

#[derive(Template)]
#[template(path = "tasks.html")]
pub(super) struct Tasks<'w> {
    rows: Vec<TaskRow<'w>>,
    /// Tasks that are not listed.
    more: usize,
}

impl<'w> Tasks<'w> {
    pub(super) fn of(window: &'w Window) -> Self {
        let mut all: Vec<_> = window.tasks.iter().collect();
        all.sort_by_key(|(of, numbers)| (std::cmp::Reverse(checks::failed(numbers)), *of));
        let more = all.len().saturating_sub(TASKS);
        let rows = all.into_iter().take(TASKS).map(|((queue, task), numbers)| {
            let (failed, attempts) = checks::failed(numbers);
            TaskRow {
                task,
                queue,
                finished: say::count(numbers.ended()),
                failed: say::share(failed, attempts),
                failing: failed > 0,
                wait: [0.5, 0.95].map(|q| say::span(say::quantile(&numbers.wait, q))),
                run: [0.5, 0.95, 0.99].map(|q| say::span(say::quantile(&numbers.run, q))),
            }
        });
        Self {
            rows: rows.collect(),
            more,
        }
    }
}
