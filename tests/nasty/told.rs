//! What the record, and the log beside it, must say of a nasty job.

use millhand::{AttemptLog, JobView, State, limits};
use millhand_proto::AttemptEnd;

use crate::deeds::Deed;
use crate::tasks::{BOMB, DEAF, Kind, SPIN, flood};

/// How a job ends.
enum End {
    /// Dead: the job's reason, how its attempt ended, with which cause, and what the error says.
    Dead(&'static str, AttemptEnd, Option<&'static str>, String),
    /// Succeeded: with this result, as JSON.
    Well(&'static str),
    /// Succeeded: with the number of a process, which the command line shows as it is.
    Number,
}

fn end(deed: Deed, kind: Kind) -> End {
    let limit = |limit| {
        let text = format!("stopped at its time limit of {limit:?}");
        End::Dead("timed_out", AttemptEnd::TimedOut, None, text)
    };
    let crash = |cause, text: &str| End::Dead("crashed", AttemptEnd::Crashed, Some(cause), text.to_owned());
    match (deed, kind) {
        (Deed::Spin, _) => limit(SPIN),
        (Deed::Deaf, _) => limit(DEAF),
        (Deed::Bomb, _) => limit(BOMB),
        (Deed::Abort, _) => crash("SIGABRT", "killed by SIGABRT"),
        (Deed::Segfault, _) => crash("SIGSEGV", "killed by SIGSEGV"),
        (Deed::Hunger, _) => crash("memory_limit", "of memory and may hold 128.0 MiB"),
        // A command says so that it is done, and with what.
        (Deed::ExitZero, Kind::Command) => End::Well(r#""[1, 2""#),
        (Deed::ExitZero, _) => crash("exit_0", "ended without an answer: exit code 0"),
        // All of it would be the result.
        (Deed::Flood, Kind::Command) => {
            let text = format!("the result has more than {} bytes", limits::RESULT_BYTES);
            End::Dead("result_too_big", AttemptEnd::Failed, None, text)
        }
        (Deed::Flood, _) => End::Well(r#""printed""#),
        // Its end is its exit, not that of its output.
        (Deed::ClosedPipe, Kind::Command) => End::Well(r#""""#),
        (Deed::ClosedPipe, _) => crash("closed", "closed its socket without an answer"),
        (Deed::Orphan, _) => End::Number,
    }
}

pub fn check(deed: Deed, kind: Kind, job: &JobView, log: Option<&AttemptLog>) {
    let entry = &job.entry;
    let result = || entry.result.as_ref().unwrap().to_json().unwrap();
    match end(deed, kind) {
        End::Dead(reason, end, cause, text) => {
            assert_eq!(
                (entry.state, entry.reason.as_deref()),
                (State::Dead, Some(reason)),
                "{job:?}"
            );
            let [note] = entry.notes.as_slice() else {
                panic!("one attempt, one note: {job:?}");
            };
            assert_eq!(
                (note.number, note.end, note.cause.as_deref()),
                (1, end, cause),
                "{note:?}"
            );
            let error = note.error.as_ref().unwrap().as_str();
            assert!(error.contains(&text), "{error}");
        }
        End::Well(value) => {
            assert_eq!(entry.state, State::Succeeded, "{job:?}");
            assert_eq!(result(), value);
        }
        End::Number => {
            assert_eq!(entry.state, State::Succeeded, "{job:?}");
            assert!(result().contains(|digit: char| digit.is_ascii_digit()), "{}", result());
        }
    }
    assert_eq!((entry.attempts, entry.deaths), (1, 0), "{job:?}");
    let lines = log.map_or(&[][..], |log| &log.lines);
    let says = |text: &str| lines.iter().any(|line| line.text.contains(text));
    match (deed, kind) {
        // What the example does when it is asked cannot be seen.
        (Deed::Deaf, Kind::Rust | Kind::Command) => assert!(says("asked to end, and sleeps on"), "{log:?}"),
        // A job of no time, as the example's may be, ends before it is looked for what it left.
        (Deed::Orphan, Kind::Rust) => {
            assert!(says("left 1 process(es) behind, which were ended"), "{log:?}");
        }
        (Deed::Flood, Kind::Rust | Kind::Python) => {
            let dropped = log.unwrap().dropped;
            let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
            assert!(bytes <= limits::LOG_BYTES, "{bytes}");
            // On a slow machine one more: that it was asked to end at its soft limit.
            let more = (dropped + lines.len() as u64).checked_sub((flood() as u64) << 10);
            assert!(
                more.is_some_and(|more| more <= 1),
                "{more:?} more than its lines of 1 KiB"
            );
        }
        (Deed::Hunger, _) => {
            let (peak, limit) = (entry.receipt.unwrap().peak.unwrap(), 128 << 20);
            assert!(peak > limit);
            println!("  over its memory limit by {} MiB", (peak - limit) >> 20);
        }
        _ => {}
    }
}
