//! Many jobs, and queues: one a line.

use std::fmt::Write as _;
use std::time::Duration;

use millhand_broker::{JobPage, QueueView};
use millhand_proto::Timestamp;

use crate::output::{Align, Cell, Style, Table, bytes, clean, grouped, plural, shorten};
use crate::times::{compact, rfc3339};
use crate::views::{ran, tries, waited};

/// A span as a table shows it; a dash where it is not known.
fn cell(span: Option<Duration>) -> Cell {
    span.map_or_else(|| "-".to_owned(), compact).into()
}

/// Many jobs.
pub(crate) fn jobs(page: &JobPage, now: Timestamp, style: Style) -> String {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("STATE", Align::Left),
        ("TASK", Align::Left),
        ("ID", Align::Left),
        ("QUEUE", Align::Left),
        ("TRY", right),
        ("WAIT", right),
        ("RUN", right),
        ("AGE", right),
    ]);
    for view in &page.jobs {
        let entry = &view.entry;
        let plain = Style { color: false, ..style }.state(entry.state);
        table.row(vec![
            Cell::painted(style.state(entry.state), &plain),
            entry.task.as_str().into(),
            view.id.to_string().into(),
            view.queue.as_str().into(),
            tries(view).to_string().into(),
            cell(waited(view, now)),
            cell(ran(view, now)),
            cell(Some(now.since(entry.enqueued_at))),
        ]);
    }
    table.render(style)
}

/// What a list left out, in one line.
pub(crate) fn coverage(page: &JobPage) -> String {
    let shown = plural(page.jobs.len() as u64, "job");
    let looked = grouped(page.looked_at as u64);
    match (page.more, page.complete) {
        (true, _) => format!("{shown} shown, more match; --limit shows more"),
        (false, false) => format!("{shown} shown; the search stopped after {looked} rows, older ones may match too"),
        (false, true) => format!("{shown} shown, all that match"),
    }
}

/// Queues.
pub(crate) fn queues(queues: &[QueueView], now: Timestamp, style: Style) -> String {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        ("QUEUED", right),
        ("SCHEDULED", right),
        ("HELD", right),
        ("OLDEST", right),
        ("PAUSED", right),
    ]);
    let mut notes = String::new();
    for queue in queues {
        table.row(vec![
            queue.name.as_str().into(),
            if queue.trouble.is_some() {
                "?".into()
            } else {
                grouped(queue.queued).into()
            },
            queue.scheduled.map_or_else(|| "-".into(), |n| grouped(n).into()),
            grouped(queue.held).into(),
            cell(queue.oldest.map(|t| now.since(t))),
            cell(queue.paused.map(|t| now.since(t))),
        ]);
        if let Some(why) = &queue.trouble {
            let _ = writeln!(notes, "{}: not asked: {}", queue.name, shorten(&clean(why, false), 300));
        }
        for bad in &queue.unreadable {
            let (size, reason) = (bytes(bad.bytes), shorten(&clean(&bad.reason, false), 200));
            let _ = writeln!(
                notes,
                "{}: unreadable at {}, {size}: {reason}",
                queue.name,
                rfc3339(bad.at)
            );
        }
    }
    let table = table.render(style);
    if notes.is_empty() {
        table
    } else {
        format!("{table}\n{notes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};
    use crate::show::PLAIN;

    #[test]
    fn a_narrow_terminal_loses_columns_at_the_right() {
        let at = |width| jobs(&fixture::page(), NOW, Style { width, ..PLAIN });
        let wide = at(None);
        for columns in [200, 80, 60, 20] {
            let narrow = at(Some(columns));
            for (line, whole) in narrow.lines().zip(wide.lines()) {
                assert!(whole.starts_with(line), "{line}");
                // State, task and id always stand.
                assert!(line.chars().count() <= columns.max(66), "{line}");
            }
        }
        assert_eq!(at(Some(200)), wide);
        assert!(!at(Some(60)).contains("AGE") && at(Some(20)).contains("ID"));
    }

    #[test]
    fn a_list_of_jobs() {
        insta::assert_snapshot!(jobs(&fixture::page(), NOW, PLAIN), @r#"
        STATE        TASK       ID                                    QUEUE    TRY   WAIT    RUN     AGE
        ◌ scheduled  report     01c0dd49-10dd-8000-8000-000000000c00  default    0      -      -   5.00s
        ○ queued     report     01c0dd48-843d-8000-8000-000000001000  default    0  41.0s      -   41.0s
        ○ queued     unheard    01c0dd47-9dc5-8000-8000-000000001400  default    0  1m40s      -   1m40s
        ▶ running    resize     01c0dd48-f585-8000-8000-000000001800  default    2      -  11.0s   12.0s
        ↻ retrying   fetch      01c0dd48-3a05-8000-8000-000000001c00  default    1      -      -   1m00s
        ✓ succeeded  wordcount  01c0dd47-c4d5-8000-8000-000000000400  default    3  301ms  600ms   1m30s
        ✗ dead       mail.send  01c0dcd9-c0c5-8000-8000-000000000800  default    2      -      -   2h01m
        ■ cancelled  resize     01c0dd3f-fca5-8000-8000-000000002000  default    0      -      -  10m00s
        □ expired    resize     01c0d753-4365-8000-8000-000000002400  default    0      -      -   1d03h
        "#);
    }

    #[test]
    fn a_list_in_ascii_has_no_other_characters() {
        let text = jobs(&fixture::page(), NOW, Style { ascii: true, ..PLAIN });
        assert!(text.is_ascii(), "{text}");
    }

    #[test]
    fn what_a_list_left_out_is_said() {
        let mut page = fixture::page();
        assert_eq!(coverage(&page), "9 jobs shown, all that match");
        page.complete = false;
        assert_eq!(
            coverage(&page),
            "9 jobs shown; the search stopped after 9 rows, older ones may match too"
        );
        page.more = true;
        assert_eq!(coverage(&page), "9 jobs shown, more match; --limit shows more");
    }

    #[test]
    fn a_list_of_queues() {
        insta::assert_snapshot!(queues(&fixture::queues(), NOW, PLAIN), @r#"
        QUEUE    QUEUED  SCHEDULED  HELD  OLDEST  PAUSED
        default  12,410          3     4   1h01m       -
        mail          0          3     4       -   1m00s
        odd           ?          3     4       -       -

        mail: unreadable at 2031-02-03T04:04:56.789Z, 19.5 KiB: values nest deeper\u{1b} than 64 levels
        odd: not asked: queue mh.main.1.q.odd.normal has other arguments
        "#);
    }
}
