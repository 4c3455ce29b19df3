//! Charts as SVG.
//!
//! Places along the time are percents and heights are pixels, so that a chart fills its column
//! while its text keeps its size. Colours are classes, since no style may stand in the page.

mod axis;
mod bars;
mod curves;
mod scale;
mod small;
mod waterfall;

use std::fmt::{self, Display, Write};

use askama::filters::HtmlSafe;

pub(crate) use axis::Axis;
pub(crate) use bars::{Layer, bars};
pub(crate) use curves::{Curve, curves};
pub(crate) use small::{meter, spark};
pub(crate) use waterfall::{Phase, waterfall};

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

    fn end(mut self) -> Self {
        self.0.push_str("</svg>");
        self
    }
}
