//! The overview: one moment and one range, part by part, so that an open page can change a part in
//! place.

mod dead;
mod plot;
mod queues;
mod tasks;
mod tiles;
mod verdict;
mod window;
mod workers;

use std::fmt::{self, Display};

use askama::Template;
use askama::filters::HtmlSafe;

use crate::checks;
use crate::figures::Moment;
use crate::range::Range;
use dead::Dead;
pub(crate) use plot::Plot;
use queues::Queues;
use tasks::Tasks;
use tiles::Tiles;
pub(crate) use tiles::queued_head;
use verdict::Verdict;
use window::Window;
use workers::Workers;

/// Markup of a part, made by a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    fn of(template: &impl Template) -> Self {
        // It fails only where a value's `Display` does, and ours do not.
        Self(template.render().unwrap_or_default())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl HtmlSafe for Html {}

/// The parts of an overview, by the id of the element that holds each.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) problems: usize,
    list: Vec<(&'static str, Html)>,
}

impl Parts {
    pub(crate) fn of(moment: &Moment, range: Range) -> Self {
        let window = Window::of(moment, range);
        let problems = checks::problems(moment);
        let count = problems.len();
        let mut list = vec![
            ("verdict", Html::of(&Verdict::of(moment, problems))),
            ("tiles", Html::of(&Tiles::of(moment, &window, range))),
        ];
        for plot in &Plot::ALL {
            let (svg, table) = plot.draw(&window);
            list.push((plot.id, Html(svg.to_string())));
            list.push((plot.table_id, Html::of(&table)));
        }
        list.push(("queues", Html::of(&Queues::of(moment, &window))));
        list.push(("tasks", Html::of(&Tasks::of(&window))));
        list.push(("workers", Html::of(&Workers::of(moment))));
        list.push(("dead", Html::of(&Dead::of(moment))));
        Self { problems: count, list }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Html)> {
        self.list.iter().map(|(id, html)| (*id, html))
    }

    /// The part of an id; nothing for one that is not there.
    pub(crate) fn get(&self, id: &str) -> &str {
        self.iter()
            .find(|(other, _)| *other == id)
            .map_or("", |(_, html)| html.as_str())
    }
}
