//! Jobs as people read them: a table of many, a page of one.

mod job;
mod lists;
mod log;
mod sentence;

pub(crate) use self::job::job;
pub(crate) use self::lists::{coverage, jobs, queues};
pub(crate) use self::log::{log, log_coverage, no_log};
pub(crate) use self::sentence::sentence;

#[cfg(test)]
const PLAIN: crate::output::Style = crate::output::Style {
    color: false,
    ascii: false,
    width: None,
};
