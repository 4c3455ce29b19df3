//! `millhand stats`

use std::collections::BTreeMap;

use millhand_client::Client;
use millhand_proto::{Profile, Tally, TaskName, Timestamp, limits};

use crate::args::{Format, Global, RunsArgs, StatsArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Ui;
use crate::stats::{self, StatsList, TaskStats};
use crate::times::{When, human, rfc3339};

pub(super) async fn run(args: StatsArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let found = Found::read(&client, &args.runs, args.since).await?;
    if found.tasks.is_empty() {
        found.nothing(ui, &args.runs)?;
    }
    let tasks: Vec<TaskStats> = found.tasks.iter().map(|(task, t)| TaskStats::of(task, t)).collect();
    match ui.format {
        Format::Text => match tasks.as_slice() {
            [] => {}
            [one] => ui.print(&stats::one(one, found.since, found.now, ui.style))?,
            many => {
                ui.print(&stats::table(many, ui.style))?;
                ui.note(&format!(
                    "since {}; millhand stats TASK shows every phase",
                    rfc3339(found.since)
                ));
            }
        },
        Format::Json => ui.document(&StatsList::new(&tasks, found.since, found.now))?,
        Format::Jsonl => ui.lines(&StatsList::new(&tasks, found.since, found.now).items)?,
    }
    Ok(Exit::Done)
}

/// What is known of the tasks that were asked for.
pub(super) struct Found {
    pub(super) tasks: BTreeMap<TaskName, Vec<Tally>>,
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
}

impl Found {
    pub(super) async fn read(client: &Client, which: &RunsArgs, since: When) -> Outcome<Self> {
        let now = client.backend().now();
        let since = first(since, now);
        let mut tasks: BTreeMap<TaskName, Vec<Tally>> = BTreeMap::new();
        for tally in client.admin().stats(since, now).await? {
            let task = which.task.as_ref().is_none_or(|task| *task == tally.task);
            let queue = which.queue.as_ref().is_none_or(|queue| *queue == tally.queue);
            if task && queue {
                tasks.entry(tally.task.clone()).or_default().push(tally);
            }
        }
        Ok(Self { tasks, since, now })
    }

    /// Says that nothing was found; it is a failure when something was named.
    pub(super) fn nothing(&self, ui: &Ui, which: &RunsArgs) -> Outcome<()> {
        let of = |what: &str, name: Option<&str>| name.map(|name| format!("{what}{name}")).unwrap_or_default();
        let span = human(self.now.since(self.since));
        let message = match &which.task {
            Some(task) => format!("task {task} did not run in the last {span}"),
            None => format!("no task ran in the last {span}"),
        } + &of(
            " in queue ",
            which.queue.as_ref().map(millhand_proto::QueueName::as_str),
        );
        let hint = if self.now.since(self.since) < limits::KEEP_STATS {
            "--since 1d looks back for a day; workers tell what ran every 10 s"
        } else {
            "numbers are kept for a day; workers tell what ran every 10 s"
        };
        if which.task.is_some() || which.queue.is_some() {
            return Err(Failure::new(Exit::Nothing, "nothing", message).hint(hint));
        }
        if ui.format == Format::Text {
            ui.note(&format!("{message}\n  {hint}"));
        }
        Ok(())
    }
}

/// The first minute that is read: profiles are kept by tens of minutes, so counts start with theirs.
fn first(since: When, now: Timestamp) -> Timestamp {
    let since = match since {
        When::In(span) => Timestamp::from_micros(
            now.as_micros()
                .saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)),
        ),
        When::At(time) => time,
    };
    let minute = Tally::minute_of(since.min(now)) / Profile::MINUTES * Profile::MINUTES;
    let oldest = Tally::minute_of(now).saturating_sub(limits::KEEP_STATS.as_secs() / 60);
    let minute = i64::try_from(minute.max(oldest)).unwrap_or(0);
    Timestamp::from_micros(minute * 60_000_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_minute_begins_a_ten_and_is_at_most_a_day_ago() {
        let at = |secs: i64| Timestamp::from_micros(secs * 1_000_000);
        let now = at(1_000_000_000);
        let ago = |since| now.since(first(since, now)).as_secs();
        // 1,000,000,000 s is 6 min 40 s into a ten.
        assert_eq!(ago(When::In(Duration::ZERO)), 400);
        assert_eq!(ago(When::In(Duration::from_secs(401))), 1_000);
        assert_eq!(ago(When::In(Duration::from_secs(3_600))), 3_400 + 600);
        assert_eq!(ago(When::At(at(999_999_000))), 1_000);
        assert_eq!(ago(When::At(at(2_000_000_000))), 400);
        assert!(ago(When::In(Duration::MAX)) <= 86_400 + 60);
    }
}
