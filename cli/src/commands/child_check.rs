//! `millhand child-check`

use millhand_proto::Payload;
use millhand_worker::child_check::{self, Checked, Trial, Verdict};

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
    let passed = child_check::check(&trial, |checked| match ui.format {
        Format::Text => {
            let print = ui.print(&line(&checked, ui));
            told = std::mem::replace(&mut told, Ok(())).and(print);
        }
        _ => items.push(CheckJson::from(checked)),
    });
    told?;
    match ui.format {
        Format::Text => {}
        Format::Json => ui.document(&Items {
            schema: "millhand.child-check/1".into(),
            items,
        })?,
        Format::Jsonl => ui.lines(&items)?,
    }
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

fn line(checked: &Checked, ui: &Ui) -> String {
    let name = checked.name;
    match &checked.verdict {
        Verdict::Passed => format!("{}  {name}", ui.style.paint(Ink::Green, "pass")),
        Verdict::Failed(why) => format!("{}  {name}: {}", ui.style.paint(Ink::Red, "FAIL"), clean(why, false)),
        Verdict::Skipped(why) => format!("{}  {name}: {why}", ui.style.paint(Ink::Dim, "skip")),
    }
}
