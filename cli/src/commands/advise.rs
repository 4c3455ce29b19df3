//! `millhand advise`

use std::fmt::Write as _;

use millhand_proto::advice::Verdict;
use millhand_proto::{Advice, Figures, Timestamp};
use serde::Serialize;

use super::stats::Found;
use crate::args::{AdviseArgs, Format, Global};
use crate::exit::{Exit, Outcome};
use crate::output::{Ink, Style, Ui, grouped, plural};
use crate::times::rfc3339;

pub(super) async fn run(args: AdviseArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let found = Found::read(&client, &args.runs, args.since).await?;
    let tasks: Vec<Advised> = found
        .tasks
        .iter()
        .filter_map(|(task, tallies)| Some(Advised::of(task.to_string(), &Figures::of(tallies)?)))
        .collect();
    if tasks.is_empty() {
        found.nothing(ui, &args.runs)?;
    }
    match ui.format {
        Format::Text if tasks.is_empty() => {}
        Format::Text => {
            ui.print(&text(&tasks, ui.style))?;
            ui.note(&summary(&tasks, found.since));
        }
        Format::Json => ui.document(&AdviceList::new(&tasks, found.since, found.now))?,
        Format::Jsonl => ui.lines(&AdviceList::new(&tasks, found.since, found.now).items)?,
    }
    Ok(
        if args.strict && tasks.iter().any(|task| task.advice.verdict.changes()) {
            Exit::Failed
        } else {
            Exit::Done
        },
    )
}

/// A task and what to do about it.
struct Advised {
    task: String,
    executor: &'static str,
    runs: u64,
    advice: Advice,
}

impl Advised {
    fn of(task: String, figures: &Figures) -> Self {
        Self {
            task,
            executor: figures.executor.as_str(),
            runs: figures.runs(),
            advice: figures.advise(),
        }
    }
}

/// What to do, in a few words.
fn order(verdict: Verdict) -> String {
    match verdict {
        Verdict::NotEnough => "not enough data".into(),
        Verdict::Keep => "keep".into(),
        Verdict::RunOn(executor) => format!("run it on {executor}"),
        Verdict::Pack(pack) => format!("pack at least {}", grouped(pack.into())),
    }
}

/// A sentence for each task, and one for what a change brings.
fn text(tasks: &[Advised], style: Style) -> String {
    let mut out = String::new();
    for task in tasks {
        let Advice { verdict, reason, gain } = &task.advice;
        let ink = if verdict.changes() { Ink::Yellow } else { Ink::Plain };
        let _ = writeln!(
            out,
            "{} (on {}, {}) {reason}: {}",
            style.paint(Ink::Bold, &task.task),
            task.executor,
            plural(task.runs, "run"),
            style.paint(ink, &order(*verdict))
        );
        if let Some(gain) = gain {
            let _ = writeln!(out, "  expect: {gain}");
        }
    }
    out
}

/// How many tasks there are, and of how many something, or nothing yet, is known.
fn summary(tasks: &[Advised], since: Timestamp) -> String {
    let count = |is: fn(Verdict) -> bool| tasks.iter().filter(|task| is(task.advice.verdict)).count();
    let (changes, unknown) = (
        count(|verdict| verdict.changes()),
        count(|verdict| verdict == Verdict::NotEnough),
    );
    let mut said = Vec::new();
    if unknown < tasks.len() {
        let changes = if changes == 0 {
            "none".into()
        } else {
            grouped(changes as u64)
        };
        said.push(format!("{changes} would be better off otherwise"));
    }
    if unknown > 0 {
        said.push(format!("nothing is known yet of {}", plural(unknown as u64, "task")));
    }
    format!(
        "{} since {}; {}",
        plural(tasks.len() as u64, "task"),
        rfc3339(since),
        said.join("; ")
    )
}

#[derive(Debug, Serialize)]
struct AdviceList {
    schema: &'static str,
    as_of: String,
    since: String,
    items: Vec<AdviceJson>,
}

impl AdviceList {
    fn new(tasks: &[Advised], since: Timestamp, now: Timestamp) -> Self {
        Self {
            schema: "millhand.advise/1",
            as_of: rfc3339(now),
            since: rfc3339(since),
            items: tasks.iter().map(AdviceJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct AdviceJson {
    task: String,
    executor: &'static str,
    runs: u64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_on: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<u32>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gain: Option<String>,
}

impl From<&Advised> for AdviceJson {
    fn from(task: &Advised) -> Self {
        let (verdict, run_on, pack) = match task.advice.verdict {
            Verdict::NotEnough => ("not_enough_data", None, None),
            Verdict::Keep => ("keep", None, None),
            Verdict::RunOn(executor) => ("run_on", Some(executor.as_str()), None),
            Verdict::Pack(pack) => ("pack", None, Some(pack)),
        };
        Self {
            task: task.task.clone(),
            executor: task.executor,
            runs: task.runs,
            verdict,
            run_on,
            pack,
            reason: task.advice.reason.clone(),
            gain: task.advice.gain.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_of_how_many_nothing_is_known_yet() {
        let said = |verdicts: &[Verdict]| {
            let tasks: Vec<_> = verdicts
                .iter()
                .map(|verdict| Advised {
                    task: "t".into(),
                    executor: "async",
                    runs: 3,
                    advice: Advice {
                        verdict: *verdict,
                        reason: String::new(),
                        gain: None,
                    },
                })
                .collect();
            summary(&tasks, Timestamp::from_micros(0)).replace("1970-01-01T00:00:00.000Z", "then")
        };
        use Verdict::{Keep, NotEnough, Pack};
        assert_eq!(
            said(&[NotEnough; 3]),
            "3 tasks since then; nothing is known yet of 3 tasks"
        );
        assert_eq!(
            said(&[Keep; 2]),
            "2 tasks since then; none would be better off otherwise"
        );
        assert_eq!(
            said(&[Keep, Pack(10), NotEnough]),
            "3 tasks since then; 1 would be better off otherwise; nothing is known yet of 1 task"
        );
    }
}
