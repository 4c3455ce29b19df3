//! `millhand job`: show, list, wait; the acts are in [`super::act`].

use std::time::Duration;

use millhand_broker::{JobFilter, JobPage, JobView};
use millhand_client::{Client, JobFailure, WaitError};
use millhand_proto::{JobId, State};

use super::act::{self, Verb};
use super::enqueue::FOR_EVER;
use crate::args::{FilterArgs, Format, Global, JobCommand, WhichArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, clean};
use crate::show;
use crate::views::{Beside, Items, JobDocument, JobJson, JobList, LogDocument, WaitJson, raw};

/// Rows of a list when no limit is given.
const LIST: usize = 50;

pub(super) async fn run(command: JobCommand, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    match &command {
        JobCommand::Wait { which, .. } => act::named(which)?,
        JobCommand::Cancel(args) | JobCommand::Retry(args) | JobCommand::RunNow(args) | JobCommand::Drop(args) => {
            act::named(&args.which)?;
        }
        JobCommand::Show { .. } | JobCommand::Log { .. } | JobCommand::List { .. } => {}
    }
    let client = super::client(&settings, false)?;
    match command {
        JobCommand::Show { id } => one(&client, &id, ui).await,
        JobCommand::Log { id } => log(&client, &id, ui).await,
        JobCommand::List { filter } => list(&client, &filter, ui).await,
        JobCommand::Wait { which, timeout } => {
            let waiting = wait(&client, &which, timeout.unwrap_or(FOR_EVER), ui);
            let hint = || "the jobs go on; the same command waits again".to_owned();
            super::unless_interrupted(Box::pin(waiting), hint).await
        }
        JobCommand::Cancel(args) => act::run(&client, Verb::Cancel, &args, ui).await,
        JobCommand::Retry(args) => act::run(&client, Verb::Retry, &args, ui).await,
        JobCommand::RunNow(args) => act::run(&client, Verb::RunNow, &args, ui).await,
        JobCommand::Drop(args) => act::run(&client, Verb::Drop, &args, ui).await,
    }
}

/// A filter as the back end takes it; `states` when none is given.
pub(super) fn filter(args: &FilterArgs, states: &[State], limit: usize) -> JobFilter {
    JobFilter {
        states: if args.state.is_empty() {
            states.to_vec()
        } else {
            args.state.clone()
        },
        task: args.task.clone(),
        queue: args.queue.clone(),
        limit: args.limit.map_or(limit, |n| usize::try_from(n).unwrap_or(limit)),
    }
}

async fn one(client: &Client, given: &str, ui: &Ui) -> Outcome {
    let id = JobId::given(given);
    let Some(view) = client.get(id).await? else {
        return Err(unknown(given, id));
    };
    let beside = Beside {
        log: client.log(id).await?,
        progress: client.progress(&view).await?,
    };
    let now = client.backend().now();
    match ui.format {
        Format::Text => ui.print(&show::job(&view, &beside, now, ui.style))?,
        Format::Json => ui.document(&JobDocument::new(&view, &beside, now))?,
        Format::Jsonl => ui.lines(&[JobJson::whole(&view, &beside, now)])?,
    }
    Ok(Exit::Done)
}

async fn log(client: &Client, given: &str, ui: &Ui) -> Outcome {
    let id = JobId::given(given);
    let Some(view) = client.get(id).await? else {
        return Err(unknown(given, id));
    };
    let log = client.log(id).await?;
    let document = LogDocument::new(id, log.as_ref());
    match (ui.format, &log) {
        (Format::Text, Some(log)) => {
            ui.print(&show::log(log, log.lines.len(), ui.style))?;
            ui.note(&show::log_coverage(log));
        }
        (Format::Text, None) => ui.note(&show::no_log(&view)),
        (Format::Json, _) => ui.document(&document)?,
        (Format::Jsonl, _) => ui.lines(&document.items)?,
    }
    // A job that was silent is an answer, not a failure.
    Ok(Exit::Done)
}

fn unknown(given: &str, id: JobId) -> Failure {
    let also = if given == id.to_string() {
        String::new()
    } else {
        format!(" (id {id})")
    };
    let message = format!("nothing is known of job {}{also}", clean(given, false));
    Failure::new(Exit::Nothing, "no_such_job", message)
        .hint("succeeded jobs are remembered for 1 day, other ended ones for 7 days")
}

async fn list(client: &Client, args: &FilterArgs, ui: &Ui) -> Outcome {
    let page = client.admin().list(filter(args, &[], LIST)).await?;
    let now = client.backend().now();
    match ui.format {
        Format::Text if page.jobs.is_empty() => ui.note(nothing(args, &page)),
        Format::Text => {
            ui.print(&show::jobs(&page, now, ui.style))?;
            ui.note(&show::coverage(&page));
        }
        Format::Json => ui.document(&JobList::new(&page, now))?,
        Format::Jsonl => ui.lines(&JobList::new(&page, now).items)?,
    }
    // A list that is empty is an answer, not a failure.
    Ok(Exit::Done)
}

fn nothing(args: &FilterArgs, page: &JobPage) -> &'static str {
    match (args.is_empty(), page.complete) {
        (_, false) => "no job matches, as far as was looked",
        (true, true) => "there are no jobs; millhand enqueue TASK makes one",
        (false, true) => "no job matches",
    }
}

/// How one wait ended.
enum Ended {
    View(Box<JobView>),
    Not(WaitError),
}

async fn wait(client: &Client, which: &WhichArgs, timeout: Duration, ui: &Ui) -> Outcome {
    let open = [State::Scheduled, State::Queued, State::Running, State::Retrying];
    let ids = act::ids(client, which, &open).await?;
    let mut waits = Vec::new();
    for id in ids {
        let client = client.clone();
        waits.push((id, tokio::spawn(async move { client.wait_raw(id, timeout).await })));
    }
    let mut exit = Exit::Done;
    let mut items = Vec::new();
    for (id, wait) in waits {
        let ended = match wait.await {
            Ok(Ok(view)) => Ended::View(Box::new(view)),
            Ok(Err(error)) => Ended::Not(error),
            Err(error) => return Err(Failure::new(Exit::Failed, "wait_failed", error.to_string())),
        };
        exit = worse(exit, exit_of(&ended));
        if let (Format::Text, Ended::View(view)) = (ui.format, &ended) {
            ui.print(&format!("{}  {id}", ui.style.state(view.entry.state)))?;
        }
        let item = item(id, ended);
        match ui.format {
            Format::Text if item.outcome == "succeeded" => {}
            Format::Text => ui.note(&format!("{id}: {}", item.why.as_deref().unwrap_or(item.outcome))),
            Format::Jsonl => ui.lines(std::slice::from_ref(&item))?,
            Format::Json => items.push(item),
        }
    }
    if ui.format == Format::Json {
        ui.document(&Items {
            schema: "millhand.job.wait/1".into(),
            items,
        })?;
    }
    Ok(exit)
}

fn exit_of(ended: &Ended) -> Exit {
    match ended {
        Ended::View(view) if view.entry.state == State::Succeeded => Exit::Done,
        Ended::View(_) => Exit::JobFailed,
        Ended::Not(WaitError::TimedOut { .. }) => Exit::TimedOut,
        Ended::Not(WaitError::Unknown(_) | WaitError::Forgotten { .. }) => Exit::Nothing,
        Ended::Not(WaitError::Backend(_)) => Exit::Unreachable,
        Ended::Not(_) => Exit::Failed,
    }
}

/// Of several endings, the one that says most of what is wrong.
fn worse(a: Exit, b: Exit) -> Exit {
    let rank = |exit| match exit {
        Exit::Done => 0,
        Exit::JobFailed => 1,
        Exit::TimedOut => 2,
        Exit::Nothing => 3,
        _ => 4,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn item(id: JobId, ended: Ended) -> WaitJson {
    let id = id.to_string();
    match ended {
        Ended::View(view) if view.entry.state == State::Succeeded => {
            let result = view.entry.result.as_ref().and_then(|r| raw(r).ok());
            WaitJson {
                id,
                outcome: "succeeded",
                why: None,
                result,
            }
        }
        Ended::View(view) => {
            let why = Some(clean(&JobFailure::of(&view).to_string(), true));
            WaitJson {
                id,
                outcome: view.entry.state.as_str(),
                why,
                result: None,
            }
        }
        Ended::Not(error) => {
            let failure = Failure::from(error);
            WaitJson {
                id,
                outcome: failure.code,
                why: Some(failure.message),
                result: None,
            }
        }
    }
}
