//! Acts on jobs, by id or by a filter: preview, confirm, act, tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millhand_broker::Acted;
use millhand_client::Client;
use millhand_proto::{JobId, State};

use super::job;
use crate::args::{ActArgs, ConfirmArgs, Format, WhichArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, grouped, plural, tally};
use crate::views::{ActDocument, ActJson};

/// Jobs that one act by filter takes at the most.
const MOST: usize = 10_000;
/// Jobs that are acted on between two looks at Ctrl-C.
const BATCH: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Cancel,
    Retry,
    RunNow,
    Drop,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::RunNow => "run-now",
            Self::Drop => "drop",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Cancel => "Cancel",
            Self::Retry => "Retry",
            Self::RunNow => "Run now",
            Self::Drop => "Drop",
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::Cancel => "cancelling",
            Self::Retry => "retrying",
            Self::RunNow => "sending",
            Self::Drop => "dropping",
        }
    }

    const fn did(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Retry => "retried",
            Self::RunNow => "made due",
            Self::Drop => "dropped",
        }
    }

    /// The states in which it can be done.
    const fn states(self) -> &'static [State] {
        match self {
            Self::Cancel => &[State::Scheduled, State::Queued, State::Running, State::Retrying],
            Self::Retry => &[State::Dead],
            Self::RunNow => &[State::Scheduled],
            Self::Drop => &[State::Succeeded, State::Dead, State::Cancelled, State::Expired],
        }
    }

    /// What cannot be undone says so before.
    const fn warning(self) -> &'static str {
        match self {
            Self::Cancel | Self::Drop => " This cannot be undone.",
            Self::Retry | Self::RunNow => "",
        }
    }
}

/// Refuses when the count is not what was expected.
pub(super) fn expected(confirm: &ConfirmArgs, count: u64, word: &str) -> Outcome<()> {
    match confirm.expect {
        Some(expected) if expected != count => {
            let (expected, count) = (grouped(expected), plural(count, word));
            let message = format!("the filter finds {count}, not {expected} as expected; nothing was done");
            Err(Failure::new(Exit::NotConfirmed, "count_differs", message))
        }
        _ => Ok(()),
    }
}

/// Refuses where nobody can answer.
pub(super) fn can_ask(ui: &Ui) -> Outcome<()> {
    if ui.asks {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NotConfirmed,
        "not_confirmed",
        "this needs a confirmation, and there is no terminal to ask on",
    )
    .hint("--yes confirms it, --dry-run shows what it would do"))
}

/// Becomes true at the first Ctrl-C; the second ends the program.
pub(super) fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
        }
    });
    stop
}

/// Refuses when nothing says which jobs are meant: never all of them by accident.
pub(super) fn named(which: &WhichArgs) -> Outcome<()> {
    if which.ids.is_empty() && which.filter.is_empty() {
        return Err(Failure::usage("name jobs by id, or by --state, --task or --queue"));
    }
    Ok(())
}

/// The jobs that are meant, by id or by filter.
pub(super) async fn ids(client: &Client, which: &WhichArgs, states: &[State]) -> Outcome<Vec<JobId>> {
    if !which.ids.is_empty() {
        return Ok(which.ids.iter().map(|id| JobId::given(id)).collect());
    }
    let page = page(client, which, states).await?;
    Ok(page.jobs.iter().map(|view| view.id).collect())
}

async fn page(client: &Client, which: &WhichArgs, states: &[State]) -> Outcome<millhand_broker::JobPage> {
    let page = client.admin().list(job::filter(&which.filter, states, MOST)).await?;
    if page.jobs.is_empty() {
        return Err(Failure::new(Exit::Nothing, "nothing", "no job matches"));
    }
    Ok(page)
}

pub(super) async fn run(client: &Client, verb: Verb, args: &ActArgs, ui: &Ui) -> Outcome {
    let confirm = &args.confirm;
    let named = !args.which.ids.is_empty();
    // The set is fixed here: what comes later is not touched.
    let ids: Vec<JobId> = if named {
        let ids = ids(client, &args.which, &[]).await?;
        expected(confirm, ids.len() as u64, "job")?;
        ids
    } else {
        if let Some(state) = args.which.filter.state.iter().find(|s| !verb.states().contains(s)) {
            let states: Vec<_> = verb.states().iter().map(|s| s.as_str()).collect();
            return Err(Failure::usage(format!(
                "--state {state}: {} is not for jobs that are {state}; it is for {}",
                verb.word(),
                states.join(", ")
            )));
        }
        let page = page(client, &args.which, verb.states()).await?;
        let count = page.jobs.len() as u64;
        expected(confirm, count, "job")?;
        if ui.format == Format::Text {
            ui.note(&preview(verb, &page));
        }
        page.jobs.iter().map(|view| view.id).collect()
    };
    if confirm.dry_run {
        if named && ui.format == Format::Text {
            ui.note(&format!("{} {}", verb.title(), plural(ids.len() as u64, "job")));
        }
        return told(verb, &ids, None, ui);
    }
    if !named && !confirm.yes {
        can_ask(ui)?;
        let answer = ui.ask(&format!("{} {}? [y/N]", verb.title(), plural(ids.len() as u64, "job")))?;
        if !matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            return Err(Failure::new(Exit::NotConfirmed, "not_confirmed", "nothing was done"));
        }
    }
    let stop = stop_flag();
    let admin = client.admin();
    let mut progress = ui.progress(verb.doing(), Some(ids.len()));
    let mut acted = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let batch = batch.iter().copied();
        let answers = match verb {
            Verb::Cancel => admin.cancel(batch).await?,
            Verb::Retry => admin.retry(batch).await?,
            Verb::RunNow => admin.run_now(batch).await?,
            Verb::Drop => admin.drop(batch).await?,
        };
        acted.extend(answers);
        progress.at(acted.len());
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    drop(progress);
    let exit = told(verb, &ids, Some(&acted), ui)?;
    if acted.len() < ids.len() {
        let left = plural((ids.len() - acted.len()) as u64, "job");
        return Err(Failure::new(
            Exit::Interrupted,
            "interrupted",
            format!("stopped; {left} left as they were"),
        )
        .hint("the same command goes on with them"));
    }
    Ok(exit)
}

fn preview(verb: Verb, page: &millhand_broker::JobPage) -> String {
    let jobs = &page.jobs;
    let mut lines = vec![
        format!(
            "{} {}.{}",
            verb.title(),
            plural(jobs.len() as u64, "job"),
            verb.warning()
        ),
        format!("  states  {}", tally(jobs.iter().map(|v| v.entry.state))),
        format!("  tasks   {}", tally(jobs.iter().map(|v| v.entry.task.clone()))),
        format!("  queues  {}", tally(jobs.iter().map(|v| v.queue.clone()))),
    ];
    lines.extend(jobs.iter().take(10).map(|v| format!("  {}", v.id)));
    if jobs.len() > 10 {
        lines.push(format!("  and {} more", grouped(jobs.len() as u64 - 10)));
    }
    if page.more || !page.complete {
        lines.push("  more match than are taken at once; the same command goes on with them".into());
    }
    lines.join("\n")
}

/// Tells what became of each job; `acted` is `None` for a dry run.
fn told(verb: Verb, ids: &[JobId], acted: Option<&[Acted]>, ui: &Ui) -> Outcome {
    let would = vec![Acted::Done; ids.len()];
    let dry_run = acted.is_none();
    let acted = acted.unwrap_or(&would);
    let count = |wanted: fn(&Acted) -> bool| acted.iter().filter(|a| wanted(a)).count();
    let done = count(|a| matches!(a, Acted::Done));
    let asked = count(|a| matches!(a, Acted::Asked));
    let refused = count(|a| matches!(a, Acted::Refused(_)));
    let unknown = count(|a| matches!(a, Acted::Unknown));
    let items = ids.iter().zip(acted).map(|(id, acted)| {
        let (outcome, why) = match acted {
            Acted::Done if dry_run => ("would_do", None),
            Acted::Done => ("done", None),
            Acted::Asked => ("asked", None),
            Acted::Refused(why) => ("refused", Some(why.clone())),
            Acted::Unknown => ("unknown", None),
        };
        ActJson {
            id: id.to_string(),
            outcome,
            why,
        }
    });
    match ui.format {
        Format::Text if dry_run => ui.note("nothing was done (--dry-run)"),
        Format::Text => {
            for item in items.filter(|i| matches!(i.outcome, "refused" | "unknown")) {
                let why = item.why.unwrap_or_else(|| "nothing is known of it".into());
                ui.note(&format!("{}: {why}", item.id));
            }
            ui.note(&counts(verb, done, asked, refused, unknown));
        }
        Format::Json => ui.document(&ActDocument {
            schema: format!("millhand.job.{}/1", verb.word()),
            dry_run,
            done: if dry_run { 0 } else { done },
            asked,
            refused,
            unknown,
            items: items.collect(),
        })?,
        Format::Jsonl => ui.lines(&items.collect::<Vec<_>>())?,
    }
    Ok(if refused + unknown == 0 {
        Exit::Done
    } else if done + asked > 0 {
        Exit::Partly
    } else if refused == 0 {
        Exit::Nothing
    } else {
        Exit::Failed
    })
}

fn counts(verb: Verb, done: usize, asked: usize, refused: usize, unknown: usize) -> String {
    let mut parts = vec![format!("{} {}", verb.did(), plural(done as u64, "job"))];
    for (count, word) in [(asked, "asked to stop"), (refused, "refused"), (unknown, "not known")] {
        if count > 0 {
            parts.push(format!("{} {word}", grouped(count as u64)));
        }
    }
    parts.join(", ")
}
