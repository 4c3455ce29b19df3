//! The overview: one moment and one range, part by part, so that an open page can change a part in
//! place.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use askama::Template;
use askama::filters::HtmlSafe;
use millhand_broker::{Counts, JobView, QueueView, WorkerView};
use millhand_proto::words::{clean, plural};
use millhand_proto::{Count, Histogram, Numbers, QueueName, State, TaskName};

use crate::chart::{self, Axis, Curve, Layer, Svg};
use crate::checks::{self, Problem};
use crate::figures::Moment;
use crate::icon::Icon;
use crate::range::Range;
use crate::say;

/// Tasks that are listed, those that fail and those that run most first.
const TASKS: usize = 20;

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
        let verdict = Verdict {
            count: plural(count as u64, "problem"),
            problems,
            checks: checks::CHECKS,
            reading: moment.day.percent(),
            at: say::clock(moment.at),
        };
        let mut list = vec![
            ("verdict", Html::of(&verdict)),
            ("tiles", Html::of(&Tiles::of(moment, &window, range))),
        ];
        for plot in Plot::ALL {
            let (svg, table) = plot.draw(&window);
            list.push((plot.id(), Html(svg.to_string())));
            list.push((plot.table_id(), Html::of(&table)));
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

/// The numbers of a range, summed in the ways that the page needs.
struct Window {
    axis: Axis,
    span: Duration,
    buckets: Vec<Numbers>,
    all: Numbers,
    queues: BTreeMap<QueueName, Numbers>,
    tasks: BTreeMap<(QueueName, TaskName), Numbers>,
}

impl Window {
    fn of(moment: &Moment, range: Range) -> Self {
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

#[derive(Template)]
#[template(path = "verdict.html")]
struct Verdict {
    count: String,
    problems: Vec<Problem>,
    checks: usize,
    /// How much of the day is read, in percent, until all is.
    reading: Option<usize>,
    at: String,
}

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
struct Tiles {
    tiles: Vec<Tile>,
}

impl Tiles {
    fn of(moment: &Moment, window: &Window, range: Range) -> Self {
        let (all, name) = (&window.all, range.name());
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
                value: say::count(queued),
                note: oldest.map_or_else(
                    || "none waits".into(),
                    |at| format!("oldest {}", say::age(at, moment.at)),
                ),
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

/// The plots of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plot {
    Finished,
    Failed,
    Wait,
    Run,
}

impl Plot {
    pub(crate) const ALL: [Self; 4] = [Self::Finished, Self::Failed, Self::Wait, Self::Run];

    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Finished => "plot-finished",
            Self::Failed => "plot-failed",
            Self::Wait => "plot-wait",
            Self::Run => "plot-run",
        }
    }

    pub(crate) const fn table_id(self) -> &'static str {
        match self {
            Self::Finished => "table-finished",
            Self::Failed => "table-failed",
            Self::Wait => "table-wait",
            Self::Run => "table-run",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Finished => "Jobs finished",
            Self::Failed => "Attempts failed",
            Self::Wait => "Waiting for a slot",
            Self::Run => "Running",
        }
    }

    /// What its layers mean: name and class.
    pub(crate) const fn legend(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Finished => &[
                ("dead", "dead"),
                ("cancelled or expired", "cancelled"),
                ("succeeded", "succeeded"),
            ],
            Self::Failed => &[("job died", "dead"), ("another follows", "retrying")],
            Self::Wait | Self::Run => &[("p50", "p50"), ("p95", "p95"), ("p99", "p99")],
        }
    }

    fn layers(self, numbers: &Numbers) -> [u64; 3] {
        match self {
            Self::Finished => [
                numbers.get(Count::Dead),
                numbers.get(Count::Cancelled) + numbers.get(Count::Expired),
                numbers.get(Count::Succeeded),
            ],
            _ => {
                let again = numbers.get(Count::Retried);
                [numbers.get(Count::Failed).saturating_sub(again), again, 0]
            }
        }
    }

    fn draw(self, window: &Window) -> (Svg, Points) {
        let axis = &window.axis;
        let per = if axis.step.as_secs() == 60 {
            "minute".into()
        } else {
            format!("{} minutes", axis.step.as_secs() / 60)
        };
        let legend = self.legend();
        let head = legend.iter().map(|(name, _)| *name).collect();
        let of = |numbers: &'_ Numbers| match self {
            Self::Wait => numbers.wait.clone(),
            _ => numbers.run.clone(),
        };
        match self {
            Self::Finished | Self::Failed => {
                let all: Vec<_> = window.buckets.iter().map(|numbers| self.layers(numbers)).collect();
                let layers: Vec<_> = legend
                    .iter()
                    .enumerate()
                    .map(|(at, (name, class))| Layer {
                        name,
                        class,
                        values: all.iter().map(|values| values[at]).collect(),
                    })
                    .collect();
                let svg = chart::bars(&format!("{} per {per}", self.title()), axis, &layers);
                let shown = |at: usize, values: &[u64; 3]| Point {
                    time: axis.name(at),
                    values: values[..legend.len()].iter().map(|n| say::count(*n)).collect(),
                };
                let rows = all.iter().enumerate().map(|(at, values)| shown(at, values)).collect();
                (svg, Points { head, rows })
            }
            Self::Wait | Self::Run => {
                let all: Vec<Histogram> = window.buckets.iter().map(of).collect();
                let mut curves = Vec::new();
                for ((name, class), (q, enough)) in legend.iter().zip(say::ENOUGH) {
                    // Far too few say nothing at all.
                    let least = enough.div_ceil(5);
                    let value = |of: &Histogram| {
                        let n = of.count();
                        of.quantile(q).filter(|_| n >= least).map(|span| (span, n >= enough))
                    };
                    curves.push(Curve {
                        name,
                        class,
                        values: all.iter().map(value).collect(),
                    });
                }
                let svg = chart::curves(&format!("{}: percentiles per {per}", self.title()), axis, &curves);
                let row = |(at, of): (usize, &Histogram)| Point {
                    time: axis.name(at),
                    values: say::ENOUGH
                        .iter()
                        .map(|(q, _)| say::span(say::quantile(of, *q)))
                        .collect(),
                };
                (
                    svg,
                    Points {
                        head,
                        rows: all.iter().enumerate().map(row).collect(),
                    },
                )
            }
        }
    }
}

struct Point {
    time: String,
    values: Vec<String>,
}

/// The points of a plot as a table, the newest first.
#[derive(Template)]
#[template(path = "points.html")]
struct Points {
    head: Vec<&'static str>,
    rows: Vec<Point>,
}

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
struct Queues {
    rows: Vec<QueueRow>,
}

impl Queues {
    /// The queues that hold something, and those that are served or were used: they are empty.
    fn of(moment: &Moment, window: &Window) -> Self {
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
                queued: count(|view| view.queued),
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
            rows: all.into_iter().map(row).collect(),
        }
    }
}

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
struct Tasks<'w> {
    rows: Vec<TaskRow<'w>>,
    /// Tasks that are not listed.
    more: usize,
}

impl<'w> Tasks<'w> {
    fn of(window: &'w Window) -> Self {
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
struct Workers<'m> {
    rows: Vec<WorkerRow<'m>>,
}

impl<'m> Workers<'m> {
    fn of(moment: &'m Moment) -> Self {
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

/// The line of an error that tells most: the first, or the last where the first only announces it.
fn telling(error: &str) -> &str {
    let mut lines = error.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let last = lines.next_back();
    last.filter(|_| first.ends_with(':')).unwrap_or(first)
}

struct DeadRow<'m> {
    view: &'m JobView,
    reason: String,
    error: String,
    ago: String,
    at: String,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct Dead<'m> {
    rows: Vec<DeadRow<'m>>,
    icon: Icon,
}

impl<'m> Dead<'m> {
    fn of(moment: &'m Moment) -> Self {
        let row = |view: &'m JobView| {
            let entry = &view.entry;
            let error = entry.notes.iter().rev().find_map(|note| note.error.as_ref());
            let error = telling(error.map_or("", |error| error.as_str()));
            let ended = entry.ended.unwrap_or(entry.enqueued_at);
            DeadRow {
                view,
                reason: clean(entry.reason.as_deref().unwrap_or_default(), false),
                error: clean(&error.chars().take(160).collect::<String>(), false),
                ago: say::age(ended, moment.at),
                at: say::iso(ended),
            }
        };
        Self {
            rows: moment.dead.iter().map(row).collect(),
            icon: Icon::State(State::Dead),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reason_cannot_turn_the_text_around() {
        let view = crate::job::tests::dead("a\u{202e}b").await;
        let mut moment = Moment::empty(view.entry.enqueued_at);
        moment.dead = vec![view].into();
        let parts = Parts::of(&moment, Range::Hour);
        assert!(parts.get("dead").contains("nothing"));
        assert!(!parts.get("dead").contains('\u{202e}'));
    }

    #[test]
    fn an_error_is_told_by_the_line_that_says_what_it_is() {
        for (error, want) in [
            ("", ""),
            ("\n no route to host\n  at line 2", "no route to host"),
            ("exit code 1; the end of standard error:\nlast words\n\n", "last words"),
            ("nothing follows:", "nothing follows:"),
        ] {
            assert_eq!(telling(error), want);
        }
    }
}
