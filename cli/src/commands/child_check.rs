//! `millhand child-check`

use millhand_proto::Payload;
use millhand_worker::child_check::{self, Checked, Counts, Trial, Verdict};

use crate::args::{ChildCheckArgs, Format};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ink, Ui, clean};
use crate::views::{CheckJson, Items};

pub(super) fn run(args: ChildCheckArgs, ui: &Ui) -> Outcome {
    let ChildCheckArgs {
        task,
        args,
        within,
        command,
    } = args;
    let args = Payload::json(args.unwrap_or_else(|| "null".into()))
        .map_err(|error| Failure::usage(format!("--args is no JSON: {error}")))?;
    let trial = Trial {
        command,
        job: task.map(|task| (task, args)),
        within,
    };
    let (mut items, mut told) = (Vec::new(), Ok(()));
    let counts = child_check::check(&trial, |checked| match ui.format {
        Format::Text => {
            let print = ui.print(&line(&checked, ui));
            told = std::mem::replace(&mut told, Ok(())).and(print);
        }
        _ => items.push(CheckJson::from(checked)),
    });
    told?;
    match ui.format {
        Format::Text => {
            if let Some(closing) = closing(counts, trial.job.is_some()) {
                ui.print(&closing)?;
            }
        }
        Format::Json => ui.document(&Items {
            schema: "millhand.child-check/1".into(),
            items,
        })?,
        Format::Jsonl => ui.lines(&items)?,
    }
    Ok(if counts.failed == 0 { Exit::Done } else { Exit::Failed })
}

/// What the lines do not show: what was not tried. With every check passed there is nothing to add.
fn closing(counts: Counts, with_job: bool) -> Option<String> {
    let Counts {
        passed,
        failed,
        skipped,
        left_out,
    } = counts;
    if left_out > 0 {
        return Some(format!("the other {left_out} checks were not run"));
    }
    if skipped == 0 {
        return None;
    }
    let failed = match failed {
        0 => String::new(),
        _ => format!(", {failed} failed"),
    };
    let hint = if with_job { "" } else { ": give --task" };
    Some(format!("{passed} passed{failed}, {skipped} skipped{hint}"))
}

fn line(checked: &Checked, ui: &Ui) -> String {
    let name = checked.name;
    match &checked.verdict {
        Verdict::Passed => format!("{}  {name}", ui.style.paint(Ink::Green, "pass")),
        Verdict::Failed(why) => format!("{}  {name}: {}", ui.style.paint(Ink::Red, "FAIL"), clean(why, false)),
        Verdict::Skipped(why) => format!("{}  {name}: {why}", ui.style.paint(Ink::Dim, "skip")),
    }
}
