//! From measurements to figures.

use std::time::Duration;

use serde::Serialize;

use crate::stopwatch::Sample;

/// Many values as three.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
        }
    }
}

/// A number of things, to calculate with.
#[allow(clippy::cast_precision_loss, reason = "a number of things is far below 2^52")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

/// A raw loop and Millhand, in pairs.
#[derive(Debug, Serialize)]
pub(crate) struct Pairs {
    pub(crate) what: String,
    /// Jobs per second.
    pub(crate) raw: Spread,
    pub(crate) millhand: Spread,
    /// Microseconds of CPU time per job, all threads of this process.
    pub(crate) raw_cpu: Spread,
    pub(crate) millhand_cpu: Spread,
    /// Millhand's jobs per second divided by the raw loop's beside it.
    pub(crate) ratio: Spread,
    pub(crate) goal: Option<f64>,
    pub(crate) reached: Option<bool>,
}

impl Pairs {
    pub(crate) fn of(what: impl Into<String>, jobs: usize, goal: Option<f64>, pairs: &[(Sample, Sample)]) -> Self {
        let jobs = float(jobs);
        let rate = |sample: &Sample| jobs / sample.wall.as_secs_f64();
        let cpu = |sample: &Sample| sample.cpu.as_secs_f64() * 1e6 / jobs;
        let ratio = Spread::of(pairs.iter().map(|(raw, ours)| rate(ours) / rate(raw)));
        Self {
            what: what.into(),
            raw: Spread::of(pairs.iter().map(|p| rate(&p.0))),
            millhand: Spread::of(pairs.iter().map(|p| rate(&p.1))),
            raw_cpu: Spread::of(pairs.iter().map(|p| cpu(&p.0))),
            millhand_cpu: Spread::of(pairs.iter().map(|p| cpu(&p.1))),
            ratio,
            goal,
            reached: goal.map(|goal| ratio.median >= goal),
        }
    }
}

/// A figure beside the same of something bare, in the same rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) what: String,
    pub(crate) beside: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Spread,
    pub(crate) bare: Spread,
    /// Ours divided by the bare one's of the same round.
    pub(crate) ratio: Spread,
    /// What the ratio's median is to reach, in words.
    pub(crate) goal: Option<String>,
    pub(crate) reached: Option<bool>,
}

impl Beside {
    /// `rounds`: ours and the bare figure of each.
    pub(crate) fn of(
        what: impl Into<String>,
        beside: impl Into<String>,
        unit: &'static str,
        rounds: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let rounds: Vec<_> = rounds.into_iter().collect();
        Self {
            what: what.into(),
            beside: beside.into(),
            unit,
            ours: Spread::of(rounds.iter().map(|r| r.0)),
            bare: Spread::of(rounds.iter().map(|r| r.1)),
            ratio: Spread::of(rounds.iter().map(|(ours, bare)| ours / bare)),
            goal: None,
            reached: None,
        }
    }

    pub(crate) fn at_most(self, goal: f64) -> Self {
        Self {
            reached: Some(self.ratio.median <= goal),
            goal: Some(format!("≤ {goal} ×")),
            ..self
        }
    }

    /// At most that times the bare figure, or so much more than it.
    pub(crate) fn at_most_or_more(self, goal: f64, more: f64) -> Self {
        let reached = self.ratio.median <= goal || self.ours.median <= self.bare.median + more;
        Self {
            reached: Some(reached),
            goal: Some(format!("≤ {goal} ×, or + {more} {}", self.unit)),
            ..self
        }
    }

    pub(crate) fn at_least(self, goal: f64) -> Self {
        Self {
            reached: Some(self.ratio.median >= goal),
            goal: Some(format!("≥ {goal} ×")),
            ..self
        }
    }
}

/// The value that half of them do not exceed, in microseconds.
pub(crate) fn median_micros(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// Times of single things, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) what: String,
    pub(crate) count: usize,
    pub(crate) p50: usize,
    pub(crate) p95: usize,
    pub(crate) p99: usize,
    pub(crate) max: usize,
}

impl Times {
    pub(crate) fn of(what: impl Into<String>, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let micros = |time: Option<&Duration>| time.map_or(0, |t| usize::try_from(t.as_micros()).unwrap_or(usize::MAX));
        let at = |percent: usize| micros(times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))));
        Self {
            what: what.into(),
            count: times.len(),
            p50: at(50),
            p95: at(95),
            p99: at(99),
            max: micros(times.last()),
        }
    }
}

/// A single number.
#[derive(Debug, Serialize)]
pub(crate) struct Number {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<Goal>,
    pub(crate) reached: Option<bool>,
}

/// What a number is to reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Number {
    pub(crate) fn of(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            goal: None,
            reached: None,
        }
    }

    pub(crate) fn at_most(self, goal: f64) -> Self {
        Self {
            reached: Some(self.value <= goal),
            goal: Some(Goal::AtMost(goal)),
            ..self
        }
    }

    pub(crate) fn at_least(self, goal: f64) -> Self {
        Self {
            reached: Some(self.value >= goal),
            goal: Some(Goal::AtLeast(goal)),
            ..self
        }
    }

    /// CPU time of this process while its worker waited for work.
    pub(crate) fn idle(sample: &Sample) -> Self {
        let percent = 100.0 * sample.cpu.as_secs_f64() / sample.wall.as_secs_f64();
        Self::of("idle worker: CPU", percent, "% of a core").at_most(0.5)
    }
}

/// A raw figure beside what the same raw loop did on a quiet machine. A run with a weak one is void:
/// beside it everything looks good.
#[derive(Debug, Serialize)]
pub(crate) struct Baseline {
    pub(crate) what: &'static str,
    pub(crate) percent: f64,
    pub(crate) void: bool,
}

/// Below this a baseline is weak.
const WEAK: f64 = 60.0;

impl Baseline {
    /// `measured` and `quiet` are speeds.
    pub(crate) fn of(what: &'static str, measured: f64, quiet: f64) -> Self {
        let percent = 100.0 * measured / quiet;
        Self {
            what,
            percent,
            void: percent < WEAK,
        }
    }
}
