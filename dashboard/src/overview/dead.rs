//! The newest dead jobs.

use askama::Template;
use millhand_broker::JobView;
use millhand_proto::State;
use millhand_proto::words::clean;

use crate::figures::Moment;
use crate::icon::Icon;
use crate::say;

/// The line of an error that tells most: the first, or the last where the first only announces it.
fn telling(error: &str) -> &str {
    let mut lines = error.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let last = lines.next_back();
    last.filter(|_| first.ends_with(':')).unwrap_or(first)
}

struct DeadRow<'m> {
    view: &'m JobView,
    reason: String,
    error: String,
    ago: String,
    at: String,
}

#[derive(Template)]
#[template(path = "dead.html")]
pub(super) struct Dead<'m> {
    rows: Vec<DeadRow<'m>>,
    icon: Icon,
}

impl<'m> Dead<'m> {
    pub(super) fn of(moment: &'m Moment) -> Self {
        let row = |view: &'m JobView| {
            let entry = &view.entry;
            let error = entry.notes.iter().rev().find_map(|note| note.error.as_ref());
            let error = telling(error.map_or("", |error| error.as_str()));
            let ended = entry.ended.unwrap_or(entry.enqueued_at);
            DeadRow {
                view,
                reason: clean(entry.reason.as_deref().unwrap_or_default(), false),
                error: clean(&error.chars().take(160).collect::<String>(), false),
                ago: say::age(ended, moment.at),
                at: say::iso(ended),
            }
        };
        Self {
            rows: moment.dead.iter().map(row).collect(),
            icon: Icon::State(State::Dead),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reason_cannot_turn_the_text_around() {
        let view = crate::job::tests::dead("a\u{202e}b").await;
        let mut moment = Moment::empty(view.entry.enqueued_at);
        moment.dead = vec![view].into();
        let rows = Dead::of(&moment).render().unwrap();
        assert!(rows.contains("nothing") && !rows.contains('\u{202e}'), "{rows}");
    }

    #[test]
    fn an_error_is_told_by_the_line_that_says_what_it_is() {
        for (error, want) in [
            ("", ""),
            ("\n no route to host\n  at line 2", "no route to host"),
            ("exit code 1; the end of standard error:\nlast words\n\n", "last words"),
            ("nothing follows:", "nothing follows:"),
        ] {
            assert_eq!(telling(error), want);
        }
    }
}
