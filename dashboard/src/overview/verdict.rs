//! Whether all is well.

use askama::Template;
use millhand_proto::State;
use millhand_proto::words::plural;

use crate::checks::{self, Problem};
use crate::figures::Moment;
use crate::icon::Icon;
use crate::range::Range;
use crate::say;

#[derive(Template)]
#[template(path = "verdict.html")]
pub(super) struct Verdict {
    count: String,
    problems: Vec<Problem>,
    checks: usize,
    /// How much of the day is read, in percent, until all is.
    reading: Option<usize>,
    at: String,
}

impl Verdict {
    pub(super) fn of(moment: &Moment, problems: Vec<Problem>) -> Self {
        Self {
            count: plural(problems.len() as u64, "problem"),
            problems,
            checks: checks::CHECKS,
            reading: moment.day.percent(),
            at: say::clock(moment.at),
        }
    }
}
