//! The plots of the page, each with its points as a table.

use askama::Template;
use millhand_proto::{Count, Histogram, Numbers};

use super::window::Window;
use crate::chart::{self, Axis, Curve, Layer, Svg};
use crate::say;

/// A plot of the page.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) id: &'static str,
    pub(crate) table_id: &'static str,
    pub(crate) title: &'static str,
    shows: Shows,
}

/// What is plotted of the numbers of each bucket.
#[derive(Debug)]
enum Shows {
    /// Counts that add up, as bars.
    Parts(&'static [Part]),
    /// Percentiles of durations, as curves.
    Times(fn(&Numbers) -> &Histogram),
}

/// A part of every bar.
#[derive(Debug)]
struct Part {
    name: &'static str,
    /// Its colour and pattern.
    class: &'static str,
    of: fn(&Numbers) -> u64,
}

/// Percentiles by name, which is their class too.
const PERCENTILES: [&str; 3] = ["p50", "p95", "p99"];

impl Plot {
    pub(crate) const ALL: [Self; 4] = [
        Self {
            id: "plot-finished",
            table_id: "table-finished",
            title: "Jobs finished",
            shows: Shows::Parts(&[
                Part {
                    name: "dead",
                    class: "dead",
                    of: |numbers| numbers.get(Count::Dead),
                },
                Part {
                    name: "cancelled or expired",
                    class: "cancelled",
                    of: |numbers| {
                        numbers
                            .get(Count::Cancelled)
                            .saturating_add(numbers.get(Count::Expired))
                    },
                },
                Part {
                    name: "succeeded",
                    class: "succeeded",
                    of: |numbers| numbers.get(Count::Succeeded),
                },
            ]),
        },
        Self {
            id: "plot-failed",
            table_id: "table-failed",
            title: "Attempts failed",
            shows: Shows::Parts(&[
                Part {
                    name: "job died",
                    class: "dead",
                    of: |numbers| numbers.get(Count::Failed).saturating_sub(numbers.get(Count::Retried)),
                },
                Part {
                    name: "another follows",
                    class: "retrying",
                    of: |numbers| numbers.get(Count::Retried),
                },
            ]),
        },
        Self {
            id: "plot-wait",
            table_id: "table-wait",
            title: "Waiting for a slot",
            shows: Shows::Times(|numbers| &numbers.wait),
        },
        Self {
            id: "plot-run",
            table_id: "table-run",
            title: "Running",
            shows: Shows::Times(|numbers| &numbers.run),
        },
    ];

    /// What its layers mean: name and class.
    pub(crate) fn legend(&self) -> Vec<(&'static str, &'static str)> {
        match self.shows {
            Shows::Parts(parts) => parts.iter().map(|part| (part.name, part.class)).collect(),
            Shows::Times(_) => PERCENTILES.map(|name| (name, name)).into(),
        }
    }

    pub(super) fn draw(&self, window: &Window) -> (Svg, Points) {
        let axis = &window.axis;
        let per = match axis.step.as_secs() / 60 {
            1 => "minute".into(),
            minutes => format!("{minutes} minutes"),
        };
        match self.shows {
            Shows::Parts(parts) => {
                let layers: Vec<Layer> = parts.iter().map(|part| part.layer(&window.buckets)).collect();
                let svg = chart::bars(&format!("{} per {per}", self.title), axis, &layers);
                let row = |at| layers.iter().map(|layer| say::count(layer.values[at])).collect();
                (svg, Points::of(self, axis, row))
            }
            Shows::Times(of) => {
                let times: Vec<&Histogram> = window.buckets.iter().map(of).collect();
                let title = format!("{}: percentiles per {per}", self.title);
                let svg = chart::curves(&title, axis, &percentiles(&times));
                let row = |at: usize| {
                    let quantile = |(q, _)| say::span(say::quantile(times[at], q));
                    say::ENOUGH.map(quantile).into()
                };
                (svg, Points::of(self, axis, row))
            }
        }
    }
}

impl Part {
    fn layer(&self, buckets: &[Numbers]) -> Layer {
        Layer {
            name: self.name,
            class: self.class,
            values: buckets.iter().map(self.of).collect(),
        }
    }
}

fn percentiles(times: &[&Histogram]) -> Vec<Curve> {
    let curve = |(name, (q, enough)): (&'static str, (f64, u64))| {
        // Far too few say nothing at all.
        let least = enough.div_ceil(5);
        let value = |of: &&Histogram| {
            let n = of.count();
            of.quantile(q).filter(|_| n >= least).map(|span| (span, n >= enough))
        };
        Curve {
            name,
            class: name,
            values: times.iter().map(value).collect(),
        }
    };
    PERCENTILES.into_iter().zip(say::ENOUGH).map(curve).collect()
}

struct Point {
    time: String,
    values: Vec<String>,
}

/// The points of a plot as a table, the newest first.
#[derive(Template)]
#[template(path = "points.html")]
pub(super) struct Points {
    head: Vec<&'static str>,
    rows: Vec<Point>,
}

impl Points {
    fn of(plot: &Plot, axis: &Axis, row: impl Fn(usize) -> Vec<String>) -> Self {
        let point = |at| Point {
            time: axis.name(at),
            values: row(at),
        };
        Self {
            head: plot.legend().into_iter().map(|(name, _)| name).collect(),
            rows: (0..axis.starts.len()).map(point).collect(),
        }
    }
}
