//! Where the time of one job went.

use std::time::Duration;

use millhand_proto::words::human;

use super::{Svg, Text};

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

#[cfg(test)]
mod tests {
    use super::*;

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
