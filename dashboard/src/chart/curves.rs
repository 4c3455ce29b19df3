//! Curves of percentiles.

use std::fmt::Write;
use std::time::Duration;

use millhand_proto::words::human;

use super::axis::{Axis, frame};
use super::scale::{Scale, mark};
use super::{HEIGHT, Svg};

/// One percentile.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    /// `None` without samples; `false` with too few of them.
    pub(crate) values: Vec<Option<(Duration, bool)>>,
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

#[cfg(test)]
mod tests {
    use super::super::axis::tests::axis;
    use super::*;

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
}
