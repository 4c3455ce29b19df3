//! The page `docs/backends.md`: what all back ends promise, and where they differ.

use std::fmt::Write;

use super::CASES;
use crate::backend::Facts;

/// The page `docs/backends.md`: what all back ends promise, and where they differ.
#[must_use]
pub fn table(facts: &[Facts]) -> String {
    let mut page = String::from(
        "# Back ends\n\nPrinted by the conformance suite (`MILLHAND_BLESS=1 cargo test -p millhand-broker`); \
         the tests fail when it differs.\n\n## What they all promise\n\n",
    );
    for case in CASES {
        let _ = writeln!(page, "- {}.", case.promise);
    }
    page.push_str("\n## Where they differ\n\n| |");
    for fact in facts {
        let _ = write!(page, " `{}:` |", fact.kind);
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(facts.len()));
    type Say = fn(&Facts) -> String;
    let rows: [(&str, Say); 7] = [
        ("accepted jobs outlive the process", |f| {
            if f.durable { "yes".into() } else { "no".into() }
        }),
        ("several processes at once", |f| {
            if f.shared { "yes".into() } else { "no".into() }
        }),
        ("a dead worker's jobs run again within", |f| {
            if f.notices_death_within.is_zero() {
                "dies with its jobs".into()
            } else {
                format!("{:?}", f.notices_death_within)
            }
        }),
        ("long jobs let go of their delivery (detach)", |f| {
            if f.detach {
                "yes".into()
            } else {
                "no: it is held, at no cost".into()
            }
        }),
        ("arguments can be looked at", |f| {
            if f.keeps_waiting_arguments {
                "of waiting and dead jobs".into()
            } else {
                "of delayed and dead jobs".into()
            }
        }),
        ("a cancel of a job that was never seen", |f| {
            if f.cancels_strangers {
                "stands, since a copy may come".into()
            } else {
                "is answered \"unknown\"".into()
            }
        }),
        ("a queue's length and a purge count", |f| {
            format!("{}s", f.counts.word())
        }),
    ];
    for (name, say) in rows {
        let _ = write!(page, "\n| {name} |");
        for fact in facts {
            let _ = write!(page, " {} |", say(fact));
        }
    }
    page.push('\n');
    page
}
