//! Bars of parts that stand on each other.

use std::fmt::Write;

use super::axis::{Axis, frame};
use super::scale::{round_up, whole};
use super::{HEIGHT, Svg};
use crate::say;

/// One part of every bar.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    /// Its colour and pattern.
    pub(crate) class: &'static str,
    pub(crate) values: Vec<u64>,
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

#[cfg(test)]
mod tests {
    use super::super::axis::tests::axis;
    use super::*;

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
}
