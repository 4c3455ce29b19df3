//! Charts as SVG: bars that stand on each other, curves of percentiles, and a receipt's waterfall.
//!
//! Places along the time are percents and heights are pixels, so that a chart fills its column
//! while its text keeps its size. Colours are classes, since no style may stand in the page.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use askama::filters::HtmlSafe;
use millhand_proto::Timestamp;
use millhand_proto::words::{compact, human};

use crate::say;

/// The height of a plot; its labels lie outside.
const HEIGHT: f64 = 150.0;

/// Markup that was put together here: all text in it is escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Svg(String);

impl Display for Svg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl HtmlSafe for Svg {}

/// Text between tags.
struct Text<'t>(&'t str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            _ => f.write_char(c),
        })
    }
}

/// Buckets of time, all of one length, the oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) starts: Vec<Timestamp>,
    pub(crate) step: Duration,
}

impl Axis {
    /// The width of a bucket, in percent.
    fn width(&self) -> f64 {
        100.0 / self.starts.len().max(1) as f64
    }

    /// Where a bucket begins, in percent.
    fn left(&self, at: usize) -> f64 {
        self.width() * at as f64
    }

    /// The buckets at round times, four to seven of them.
    fn ticks(&self) -> impl Iterator<Item = (usize, Timestamp)> + '_ {
        let minutes = self.step.as_secs() / 60 * self.starts.len() as u64;
        let rounds: [u32; 12] = [1, 2, 3, 5, 10, 15, 30, 60, 120, 180, 240, 360];
        let round = rounds.into_iter().find(|m| minutes / u64::from(*m) <= 6).unwrap_or(720);
        let is_round = move |at: &Timestamp| at.as_secs().rem_euclid(i64::from(round) * 60) == 0;
        let starts = self.starts.iter().copied().enumerate();
        starts.filter(move |(_, at)| is_round(at))
    }

    /// When a bucket begins, for people.
    pub(crate) fn name(&self, at: usize) -> String {
        say::minute(self.starts[at])
    }
}

/// One part of every bar.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    /// Its colour and pattern.
    pub(crate) class: &'static str,
    pub(crate) values: Vec<u64>,
}

/// One percentile.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    /// `None` without samples; `false` with too few of them.
    pub(crate) values: Vec<Option<(Duration, bool)>>,
}

/// Starts a plot: what it is for who does not see it, and its axis of time.
fn frame(title: &str, description: &str, axis: &Axis) -> Svg {
    let mut svg = Svg(String::with_capacity(16 << 10));
    svg.put(format_args!(
        r#"<svg class="chart" role="img" width="100%" height="{:.0}" overflow="visible"><title>{}</title><desc>{}</desc>"#,
        HEIGHT + 22.0,
        Text(title),
        Text(description)
    ));
    for (at, time) in axis.ticks() {
        let x = axis.left(at);
        svg.put(format_args!(
            r#"<line class="tick" x1="{x:.2}%" x2="{x:.2}%" y1="{HEIGHT}" y2="{:.0}"/><text class="x" x="{x:.2}%" y="{:.0}">{}</text>"#,
            HEIGHT + 4.0,
            HEIGHT + 17.0,
            say::minute(time)
        ));
    }
    svg
}

impl Svg {
    fn put(&mut self, text: fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.0.write_fmt(text);
    }

    fn level(&mut self, y: f64, label: &str) {
        self.put(format_args!(
            r#"<line class="grid" x1="0" x2="100%" y1="{y:.1}" y2="{y:.1}"/><text class="y" x="-8" y="{:.1}">{label}</text>"#,
            y + 4.0
        ));
    }

    /// What each bucket holds, where a pointer rests on it; the style sheet gives it its height.
    fn spots(&mut self, axis: &Axis, text: impl Fn(usize) -> String) {
        self.put(format_args!(r#"<g class="spots">"#));
        for at in 0..axis.starts.len() {
            let (x, width, text) = (axis.left(at), axis.width(), text(at));
            self.put(format_args!(
                r#"<rect x="{x:.2}%" width="{width:.2}%"><title>{}</title></rect>"#,
                Text(&text)
            ));
        }
        self.put(format_args!("</g>"));
    }

    fn end(mut self) -> Self {
        self.0.push_str("</svg>");
        self
    }
}

/// Bars of parts that add up, the first part on the axis. The last bucket is still forming.
pub(crate) fn bars(title: &str, axis: &Axis, layers: &[Layer]) -> Svg {
    let sum = |at: usize| {
        layers
            .iter()
            .fold(0u64, |sum, layer| sum.saturating_add(layer.values[at]))
    };
    let (most, all) = (0..axis.starts.len())
        .map(sum)
        .fold((0, 0u64), |(most, all), n| (n.max(most), all.saturating_add(n)));
    let top = round_up(most as f64);
    let mut svg = frame(
        title,
        &format!("{} in all; at most {}.", say::count(all), say::count(most)),
        axis,
    );
    let places = if top < 4.0 { 1..=1 } else { 1..=2 };
    svg.level(HEIGHT, "0");
    for half in places.clone() {
        let value = top * f64::from(half) / f64::from(*places.end());
        let label = say::count(whole(value));
        svg.level(HEIGHT * (1.0 - value / top), &label);
    }
    let mut tops = vec![HEIGHT; axis.starts.len()];
    for layer in layers {
        svg.put(format_args!(r#"<g class="bar {}">"#, layer.class));
        for (at, y) in tops.iter_mut().enumerate().filter(|(at, _)| layer.values[*at] > 0) {
            let height = (layer.values[at] as f64 / top * HEIGHT).max(1.0);
            *y -= height;
            let forming = if at + 1 == axis.starts.len() {
                r#" class="forming""#
            } else {
                ""
            };
            svg.put(format_args!(
                r#"<rect{forming} x="{:.2}%" width="{:.2}%" y="{y:.1}" height="{height:.1}"/>"#,
                axis.left(at),
                axis.width(),
            ));
        }
        svg.put(format_args!("</g>"));
    }
    svg.spots(axis, |at| {
        let parts = layers.iter().filter(|l| l.values[at] > 0);
        parts.fold(axis.name(at), |mut text, layer| {
            let _ = write!(text, "\n{} {}", say::count(layer.values[at]), layer.name);
            text
        })
    });
    svg.end()
}

/// Percentiles over time. A bucket without samples breaks a curve; one with too few of them is a
/// hollow point.
pub(crate) fn curves(title: &str, axis: &Axis, curves: &[Curve]) -> Svg {
    let values = || {
        curves
            .iter()
            .flat_map(|c| c.values.iter().flatten())
            .map(|(span, _)| span.as_secs_f64())
    };
    let most = values().fold(0.0, f64::max).max(1e-6);
    let least = values().fold(most, f64::min).max(1e-6);
    let scale = Scale::new(least, most);
    let mut title = title.to_owned();
    if matches!(scale, Scale::Log { .. }) {
        title.push_str(", on a logarithmic scale");
    }
    let seen = values().next().is_some();
    let about = if seen {
        let shown = |secs| human(Duration::from_secs_f64(secs));
        format!("Between {} and {}.", shown(least), shown(most))
    } else {
        "No samples.".to_owned()
    };
    let mut svg = frame(&title, &about, axis);
    for value in scale.ticks() {
        let label = if value == 0.0 { "0".into() } else { mark(value) };
        svg.level(scale.y(value), &label);
    }
    if !seen {
        let middle = HEIGHT / 2.0;
        svg.put(format_args!(
            r#"<text class="none" x="50%" y="{middle:.0}">no samples</text>"#
        ));
    }
    let mut ends: Vec<f64> = Vec::new();
    for curve in curves {
        let middle = |at: usize| axis.left(at) + axis.width() / 2.0;
        let known = |at: usize| match curve.values.get(at) {
            Some(Some((span, true))) => Some(span.as_secs_f64()),
            _ => None,
        };
        let (mut path, mut dots) = (String::new(), String::new());
        for at in 0..curve.values.len() {
            let Some(value) = known(at) else { continue };
            let (x, y) = (middle(at), scale.y(value));
            let (before, after) = (at.checked_sub(1).and_then(known), known(at + 1));
            let _ = match (before, after) {
                (Some(_), _) => write!(path, "L{:.1} {y:.1}", x * 10.0),
                (None, Some(_)) => write!(path, "M{:.1} {y:.1}", x * 10.0),
                // No line goes through a point without neighbours.
                (None, None) => write!(
                    dots,
                    r#"<circle class="dot {}" cx="{x:.2}%" cy="{y:.1}" r="2.5"/>"#,
                    curve.class
                ),
            };
        }
        svg.put(format_args!(
            r#"<svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" width="100%" height="{HEIGHT}" overflow="visible"><path class="curve {}" d="{path}"/></svg>{dots}"#,
            curve.class
        ));
        for (at, value) in curve.values.iter().enumerate() {
            if let Some((span, false)) = value {
                let (x, y) = (middle(at), scale.y(span.as_secs_f64()));
                svg.put(format_args!(
                    r#"<circle class="few {}" cx="{x:.2}%" cy="{y:.1}" r="2.5"/>"#,
                    curve.class
                ));
            }
        }
        if let Some((span, _)) = curve.values.iter().rev().flatten().next() {
            // Names at the ends must not lie on each other.
            let mut y = scale.y(span.as_secs_f64());
            if let Some(last) = ends.last() {
                y = y.min(last - 13.0);
            }
            ends.push(y);
            svg.put(format_args!(
                r#"<text class="end" x="100%" dx="8" y="{:.1}">{}</text>"#,
                y + 4.0,
                curve.name
            ));
        }
    }
    svg.spots(axis, |at| {
        let mut text = axis.name(at);
        for curve in curves {
            match &curve.values[at] {
                Some((span, true)) => drop(write!(text, "\n{} {}", curve.name, human(*span))),
                Some((span, false)) => drop(write!(text, "\n{} {} (few samples)", curve.name, human(*span))),
                None => {}
            }
        }
        text
    });
    svg.end()
}

/// Where a duration lies: from 0, or by its logarithm where the values are far apart.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear { top: f64 },
    Log { low: i32, high: i32 },
}

impl Scale {
    fn new(least: f64, most: f64) -> Self {
        if most / least <= 50.0 {
            return Self::Linear { top: round_up(most) };
        }
        // Powers of ten between a nanosecond and a thousand years.
        let power = |value: f64| (-9..12).find(|power| 10f64.powi(*power) >= value).unwrap_or(12);
        Self::Log {
            low: power(least * 1.000_001) - 1,
            high: power(most),
        }
    }

    fn y(self, value: f64) -> f64 {
        match self {
            Self::Linear { top } => HEIGHT * (1.0 - value / top),
            Self::Log { low, high } => {
                let part = (value.log10() - f64::from(low)) / f64::from(high - low);
                HEIGHT * (1.0 - part.clamp(0.0, 1.0))
            }
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { top } => vec![0.0, top / 2.0, top],
            Self::Log { low, high } => {
                let step = if high - low > 4 { 2 } else { 1 };
                (low..=high).step_by(step).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

/// The next of 1, 2, 4, 6, 8 or 10 times a power of ten: its half is round too.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value * 0.999_999)
        .unwrap_or(power * 10.0)
}

/// A round duration as short as it can be: `5 ms`, not `5.00 ms`.
fn mark(secs: f64) -> String {
    let text = compact(Duration::from_secs_f64(secs));
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    match unit {
        "µs" | "ms" | "s" => format!("{number} {unit}"),
        _ => text,
    }
}

/// A value of an axis, which is far from any bound.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// One phase of a receipt.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) micros: u64,
    pub(crate) class: &'static str,
}

/// Where one job's time went: a row for each phase, each beginning where the last one ended.
pub(crate) fn waterfall(title: &str, phases: &[Phase]) -> Svg {
    const ROW: f64 = 26.0;
    let whole = phases.iter().fold(0u64, |sum, phase| sum.saturating_add(phase.micros));
    let percent = |micros: u64| micros as f64 * 100.0 / whole.max(1) as f64;
    let mut svg = Svg::default();
    svg.put(format_args!(
        r#"<svg class="chart waterfall" role="img" width="100%" height="{:.0}" overflow="visible"><title>{}</title><desc>{} in all.</desc>"#,
        ROW * phases.len() as f64,
        Text(title),
        human(Duration::from_micros(whole))
    ));
    let (mut x, mut y) = (0f64, 0f64);
    for phase in phases {
        let width = percent(phase.micros);
        svg.put(format_args!(
            r#"<line class="grid" x1="0" x2="100%" y1="{0:.0}" y2="{0:.0}"/><text class="y" x="-8" y="{1:.0}">{2}</text>"#,
            y + ROW,
            y + 17.0,
            phase.name
        ));
        if phase.micros > 0 {
            // As wide as it is, but never too narrow to be seen.
            let (x, width) = if width < 0.4 { (x.min(99.6), 0.4) } else { (x, width) };
            svg.put(format_args!(
                r#"<rect class="bar {}" x="{x:.2}%" width="{width:.2}%" y="{:.0}" height="12"/>"#,
                phase.class,
                y + 7.0,
            ));
        }
        svg.put(format_args!(
            r#"<text class="end" x="100%" dx="88" y="{:.0}">{}</text><text class="share" x="100%" dx="148" y="{:.0}">{:.1} %</text>"#,
            y + 17.0,
            human(Duration::from_micros(phase.micros)),
            y + 17.0,
            width
        ));
        x += width;
        y += ROW;
    }
    svg.end()
}

/// How much of something is in use.
pub(crate) fn meter(used: u32, of: u32) -> Svg {
    let mut svg = Svg::default();
    let width = f64::from(used.min(of)) * 64.0 / f64::from(of.max(1));
    svg.put(format_args!(
        r#"<svg class="meter" width="64" height="10" aria-hidden="true"><rect class="all" width="64" height="10" rx="2"/><rect class="used" width="{width:.1}" height="10" rx="2"/></svg>"#
    ));
    svg
}

/// The course of a number in the space of a word; the text beside it says what matters.
pub(crate) fn spark(values: &[u64]) -> Svg {
    const WIDTH: f64 = 96.0;
    let most = values.iter().copied().max().unwrap_or(0).max(1) as f64;
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let mut svg =
        Svg(r#"<svg class="spark" width="100" height="24" viewBox="0 0 100 24" aria-hidden="true"><path d=""#.into());
    for (at, value) in values.iter().enumerate() {
        let letter = if at == 0 { 'M' } else { 'L' };
        svg.put(format_args!(
            "{letter}{:.1} {:.1}",
            step * at as f64 + 1.0,
            21.0 - *value as f64 / most * 18.0
        ));
    }
    let last = values.last().map_or(21.0, |v| 21.0 - *v as f64 / most * 18.0);
    svg.put(format_args!(
        r#""/><circle cx="{:.1}" cy="{last:.1}" r="2"/></svg>"#,
        WIDTH + 1.0
    ));
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(buckets: i64, minutes: u64) -> Axis {
        let start = 1_927_857_600; // 2031-02-03T04:00:00Z
        let secs = i64::try_from(minutes * 60).unwrap();
        Axis {
            starts: (0..buckets)
                .map(|n| Timestamp::from_micros((start + n * secs) * 1_000_000))
                .collect(),
            step: Duration::from_secs(minutes * 60),
        }
    }

    #[test]
    fn bars_stand_on_each_other_and_nothing_is_drawn_for_zero() {
        let layers = [
            Layer {
                name: "dead",
                class: "dead",
                values: vec![0, 1, 0],
            },
            Layer {
                name: "succeeded",
                class: "succeeded",
                values: vec![0, 3, 2],
            },
        ];
        let svg = bars("<jobs>", &axis(3, 1), &layers).to_string();
        assert!(svg.contains("<title>&lt;jobs&gt;</title><desc>6 in all; at most 4.</desc>"));
        assert!(
            svg.contains(r#"<g class="bar dead"><rect x="33.33%" width="33.33%" y="112.5" height="37.5"/></g>"#),
            "{svg}"
        );
        assert!(svg.contains(r#"<rect x="33.33%" width="33.33%" y="0.0" height="112.5"/>"#));
        assert_eq!(svg.matches("height=\"").count(), 1 + 3);
        assert_eq!(svg.matches("forming").count(), 1);
        assert!(svg.contains("<title>04:01\n1 dead\n3 succeeded</title>"));
    }

    #[test]
    fn curves_break_where_nothing_is_known_and_few_samples_are_hollow() {
        let ms = |n| Duration::from_millis(n);
        let values = vec![
            Some((ms(10), true)),
            Some((ms(20), true)),
            None,
            Some((ms(15), true)),
            Some((ms(12), false)),
        ];
        let svg = curves(
            "run",
            &axis(5, 1),
            &[Curve {
                name: "p50",
                class: "p50",
                values,
            }],
        )
        .to_string();
        assert!(svg.contains(r#"d="M100.0 75.0L300.0 0.0""#), "{svg}");
        assert!(
            svg.contains(r#"<circle class="dot p50" cx="70.00%" cy="37.5" r="2.5"/>"#),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"few p50\"").count(), 1);
        assert!(!svg.contains("logarithmic"));
        let none = Curve {
            name: "p50",
            class: "p50",
            values: vec![None; 5],
        };
        assert!(curves("run", &axis(5, 1), &[none]).to_string().contains("no samples"));
        let far = vec![Some((ms(1), true)), Some((ms(100_000), true))];
        let svg = curves(
            "run",
            &axis(2, 1),
            &[Curve {
                name: "p50",
                class: "p50",
                values: far,
            }],
        )
        .to_string();
        assert!(svg.contains("run, on a logarithmic scale"));
    }

    #[test]
    fn scales_hold_all_values_and_ticks_are_round() {
        for (least, most) in [(0.001, 0.002), (0.3, 14.9), (0.001, 60.0), (1e-6, 86_400.0), (1.0, 1.0)] {
            let scale = Scale::new(least, most);
            for value in [least, most] {
                assert!((-0.01..=HEIGHT).contains(&scale.y(value)), "{scale:?} {value}");
            }
            assert!((3..=6).contains(&scale.ticks().len()), "{scale:?}");
        }
        let tops: Vec<f64> = [0.0, 1.0, 3.0, 5.0, 9.0, 11.0, 99.0].map(round_up).into();
        assert_eq!(tops, [1.0, 1.0, 4.0, 6.0, 10.0, 20.0, 100.0]);
        assert_eq!(
            [0.005, 0.000_1, 2.0, 20.0, 120.0].map(mark),
            ["5 ms", "100 µs", "2 s", "20 s", "2m00s"]
        );
    }

    #[test]
    fn time_has_four_to_seven_ticks_at_round_times() {
        for (buckets, minutes) in [(15, 1), (60, 1), (72, 5), (96, 15)] {
            let ticks = axis(buckets, minutes).ticks().count();
            assert!((4..=7).contains(&ticks), "{buckets} x {minutes}: {ticks}");
        }
    }

    #[test]
    fn a_waterfall_begins_each_phase_where_the_last_one_ended() {
        let phases = [
            Phase {
                name: "queue",
                micros: 300,
                class: "waiting",
            },
            Phase {
                name: "claim",
                micros: 0,
                class: "overhead",
            },
            Phase {
                name: "run",
                micros: 700,
                class: "run",
            },
        ];
        let svg = waterfall("receipt", &phases).to_string();
        assert!(svg.contains(r#"class="bar run" x="30.00%" width="70.00%""#), "{svg}");
        assert!(svg.contains("30.0 %") && svg.contains("0.0 %") && svg.contains("<desc>1.00 ms in all.</desc>"));
        assert_eq!(svg.matches("class=\"bar overhead").count(), 0);
    }
}
