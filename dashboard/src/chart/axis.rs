//! Time along a plot, in buckets, and the frame around it.

use std::time::Duration;

use millhand_proto::Timestamp;

use super::{HEIGHT, Svg, Text};
use crate::say;

/// Buckets of time, all of one length, the oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) starts: Vec<Timestamp>,
    pub(crate) step: Duration,
}

impl Axis {
    /// The width of a bucket, in percent.
    pub(super) fn width(&self) -> f64 {
        100.0 / self.starts.len().max(1) as f64
    }

    /// Where a bucket begins, in percent.
    pub(super) fn left(&self, at: usize) -> f64 {
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

/// Starts a plot: what it is for who does not see it, and its axis of time.
pub(super) fn frame(title: &str, description: &str, axis: &Axis) -> Svg {
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
    /// What each bucket holds, where a pointer rests on it; the style sheet gives it its height.
    pub(super) fn spots(&mut self, axis: &Axis, text: impl Fn(usize) -> String) {
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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::chart) fn axis(buckets: i64, minutes: u64) -> Axis {
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
    fn time_has_four_to_seven_ticks_at_round_times() {
        for (buckets, minutes) in [(15, 1), (60, 1), (72, 5), (96, 15)] {
            let ticks = axis(buckets, minutes).ticks().count();
            assert!((4..=7).contains(&ticks), "{buckets} x {minutes}: {ticks}");
        }
    }
}
