//! What a job is about, in one sentence.

use millhand_broker::JobView;
use millhand_proto::{State, Timestamp};

use crate::output::{clean, plural};
use crate::times::{human, rfc3339};
use crate::views::{ran, tries, waited};

/// What the job is about, in one sentence.
pub(crate) fn sentence(view: &JobView, now: Timestamp) -> String {
    let entry = &view.entry;
    let made = match entry.attempts {
        0 => String::new(),
        n => format!(" after {}", plural(n.into(), "attempt")),
    };
    let after = entry
        .ended
        .map(|t| human(t.since(entry.enqueued_at)))
        .unwrap_or_default();
    let because = |plain: &str| match entry.reason.as_deref() {
        Some(reason) if reason != plain => format!(" ({})", clean(reason, false)),
        _ => String::new(),
    };
    match entry.state {
        State::Scheduled => match entry.due.filter(|due| *due > now) {
            Some(due) => format!("Runs in {}.", human(due.since(now))),
            None => "Is due now.".into(),
        },
        State::Queued => match &entry.parked {
            Some(parked) => format!("Parked since {}: {}.", rfc3339(parked.since), clean(&parked.why, false)),
            None => format!(
                "Waits for a worker, {} now.",
                human(waited(view, now).unwrap_or_default())
            ),
        },
        State::Running => {
            let since = human(ran(view, now).unwrap_or_default());
            let asked = if entry.cancel_asked.is_some() {
                "; it was asked to stop"
            } else {
                ""
            };
            format!("Attempt {} has run for {since}{asked}.", tries(view))
        }
        State::Retrying => {
            let next = match entry.due.or(entry.leaving.map(|l| l.due)).filter(|due| *due > now) {
                Some(due) => format!("starts in {}", human(due.since(now))),
                None => "is due".into(),
            };
            format!("Attempt {} did not succeed; the next {next}.", entry.attempts)
        }
        State::Succeeded => {
            format!(
                "Succeeded at attempt {}, {after} after it was enqueued.",
                entry.attempts.max(1)
            )
        }
        State::Dead => format!("Dead{made}{}, {after} after it was enqueued.", because("")),
        State::Cancelled => {
            let when = if made.is_empty() { " before it ran".into() } else { made };
            format!(
                "Cancelled{when}{}, {after} after it was enqueued.",
                because("cancelled")
            )
        }
        State::Expired => match entry.expires {
            Some(at) => format!("Expired{made}: it had not started by {}.", rfc3339(at)),
            None => format!("Expired{made}."),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};

    #[test]
    fn each_state_has_its_sentence() {
        let sentences: Vec<_> = fixture::every_state().iter().map(|view| sentence(view, NOW)).collect();
        insta::assert_snapshot!(sentences.join("\n"), @r#"
        Runs in 2 min 05 s.
        Waits for a worker, 41.0 s now.
        Parked since 2031-02-03T04:03:36.789Z: task unheard is not known here.
        Attempt 2 has run for 11.0 s; it was asked to stop.
        Attempt 1 did not succeed; the next starts in 9.00 s.
        Succeeded at attempt 3, 50.0 s after it was enqueued.
        Dead after 2 attempts (retries_exhausted), 5 min 02 s after it was enqueued.
        Cancelled before it ran (purged), 1.00 s after it was enqueued.
        Expired: it had not started by 2031-02-02T03:05:05.789Z.
        "#);
    }
}
