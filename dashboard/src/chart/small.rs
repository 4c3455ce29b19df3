//! Marks in the space of a word.

use super::Svg;

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
