//! The log of an attempt, or why there is none.

use std::fmt::Write as _;

use millhand_broker::JobView;
use millhand_proto::{AttemptLog, LogSource, State, limits};

use crate::output::{Ink, Style, bytes, clean, grouped, plural};
use crate::times::compact;

/// The newest lines of a log: when, where from, what.
pub(crate) fn log(log: &AttemptLog, newest: usize, style: Style) -> String {
    let mut out = String::new();
    for line in log.lines.iter().skip(log.lines.len().saturating_sub(newest)) {
        let when = format!("+{}", compact(line.after()));
        let ink = match line.source {
            LogSource::Err => Ink::Yellow,
            LogSource::Out | LogSource::Said => Ink::Dim,
        };
        let head = style.paint(ink, &format!("{when:>9}  {:<4}", line.source.as_str()));
        let _ = writeln!(out, "{}", format!("{head}  {}", clean(&line.text, false)).trim_end());
    }
    out
}

/// What a log holds, in one line.
pub(crate) fn log_coverage(log: &AttemptLog) -> String {
    let lines = plural(log.lines.len() as u64, "line");
    match log.dropped {
        0 => format!("attempt {}, {lines}", log.attempt),
        dropped => format!(
            "attempt {}, {lines}; {} older lines were dropped: the newest {} are kept",
            log.attempt,
            grouped(dropped),
            bytes(limits::LOG_BYTES)
        ),
    }
}

/// Why there is no log.
pub(crate) fn no_log(view: &JobView) -> String {
    match view.entry.state {
        State::Running => "it runs; its log is kept when the attempt has ended".into(),
        _ if view.entry.attempts == 0 => "it has not run".into(),
        _ => "its last attempt printed and said nothing, or its log was lost".into(),
    }
}
