//! `millhand queue`

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millhand_broker::{Counts, JobFilter, WorkerView};
use millhand_client::Client;
use millhand_proto::QueueName;
use tokio::time::timeout;

use crate::args::{ConfirmArgs, Format, Global, QueueCommand};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, plural};
use crate::show;
use crate::views::{ControlJson, QueueList};

/// How long a pause looks whether its queue is known: it must not wait for a server that it does not need.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(command: QueueCommand, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let admin = client.admin();
    match command {
        QueueCommand::List => list(&client, ui).await,
        QueueCommand::Pause { queue } => {
            // Looked at before: a pause alone makes a queue known.
            let looked = timeout(LOOK, is_unknown(&client, &queue)).await;
            let unknown = looked.unwrap_or(false);
            let changed = admin.pause(queue.clone()).await?;
            let said = if changed { "is paused" } else { "was paused already" };
            let done = control(ui, "pause", &queue, changed, said)?;
            if unknown {
                ui.note(&format!(
                    "no worker and no job of queue {queue} is known; it is paused for those that come"
                ));
            }
            Ok(done)
        }
        QueueCommand::Resume { queue } => {
            let changed = admin.resume(queue.clone()).await?;
            let said = if changed { "is resumed" } else { "was not paused" };
            control(ui, "resume", &queue, changed, said)
        }
        QueueCommand::Purge { queue, confirm } => purge(&client, queue, &confirm, ui).await,
    }
}

/// Whether nothing is known of a queue, as far as that can be told.
async fn is_unknown(client: &Client, queue: &QueueName) -> bool {
    let backend = client.backend();
    let filter = JobFilter {
        queue: Some(queue.clone()),
        limit: 1,
        ..JobFilter::default()
    };
    let (listed, workers, page) = tokio::join!(backend.queues(), backend.workers(), backend.jobs(filter));
    let takes = |worker: &WorkerView| worker.beat.queues.contains(queue);
    listed.is_ok_and(|queues| queues.iter().all(|view| view.name != *queue))
        && workers.is_ok_and(|workers| !workers.iter().any(takes))
        && page.is_ok_and(|page| page.complete && page.jobs.is_empty())
}

async fn list(client: &Client, ui: &Ui) -> Outcome {
    let queues = client.admin().queues().await?;
    let now = client.backend().now();
    match ui.format {
        Format::Text if queues.is_empty() => ui.note("no queue holds a job, and none is paused"),
        Format::Text => {
            ui.print(&show::queues(&queues, now, ui.style))?;
            if client.backend().facts().counts == Counts::Messages {
                ui.note("QUEUED counts messages: jobs that were enqueued together may travel in one");
            }
        }
        Format::Json => ui.document(&QueueList::new(&queues, now))?,
        Format::Jsonl => ui.lines(&QueueList::new(&queues, now).items)?,
    }
    let troubled = queues.iter().filter(|queue| queue.trouble.is_some()).count();
    Ok(match troubled {
        0 => Exit::Done,
        all if all == queues.len() => Exit::Unreachable,
        _ => Exit::Partly,
    })
}

fn document(verb: &str, queue: &QueueName) -> ControlJson {
    let schema = format!("millhand.queue.{verb}/1");
    ControlJson {
        schema,
        queue: queue.to_string(),
        changed: None,
        purged: None,
        dry_run: None,
    }
}

fn control(ui: &Ui, verb: &str, queue: &QueueName, changed: bool, said: &str) -> Outcome {
    match ui.format {
        Format::Text => ui.note(&format!("queue {queue} {said}")),
        _ => ui.document(&ControlJson {
            changed: Some(changed),
            ..document(verb, queue)
        })?,
    }
    Ok(Exit::Done)
}

async fn purge(client: &Client, queue: QueueName, confirm: &ConfirmArgs, ui: &Ui) -> Outcome {
    let (admin, word) = (client.admin(), client.backend().facts().counts.word());
    let view = admin.queues().await?.into_iter().find(|q| q.name == queue);
    if let Some(why) = view.as_ref().and_then(|q| q.trouble.clone()) {
        return Err(Failure::new(Exit::Unreachable, "store_unreachable", why));
    }
    let waiting = view.map_or(0, |q| q.queued);
    super::act::expected(confirm, waiting, word)?;
    let all = plural(waiting, word);
    if ui.format == Format::Text {
        ui.note(&format!(
            "Purge queue {queue}: what waits there and is due, {all}. This cannot be undone."
        ));
    }
    if waiting == 0 {
        return Err(Failure::new(
            Exit::Nothing,
            "nothing",
            format!("nothing waits in queue {queue}"),
        ));
    }
    if confirm.dry_run {
        if ui.format != Format::Text {
            let purged = usize::try_from(waiting).ok();
            ui.document(&ControlJson {
                purged,
                dry_run: Some(true),
                ..document("purge", &queue)
            })?;
        }
        return Ok(Exit::Done);
    }
    if !confirm.yes {
        super::act::can_ask(ui)?;
        // The more it costs, the more it asks: here the queue's name.
        let answer = ui.ask(&format!("Type the queue's name to purge {all}:"))?;
        if answer != queue.as_str() {
            return Err(Failure::new(Exit::NotConfirmed, "not_confirmed", "nothing was purged"));
        }
    }
    let stop = super::act::stop_flag();
    let mut progress = ui.progress("purging", usize::try_from(waiting).ok());
    let purged = admin
        .purge(queue.clone(), |so_far| {
            progress.at(so_far);
            !stop.load(Ordering::SeqCst)
        })
        .await?;
    drop(progress);
    match ui.format {
        Format::Text => ui.note(&format!("purged {}", plural(purged as u64, word))),
        _ => ui.document(&ControlJson {
            purged: Some(purged),
            ..document("purge", &queue)
        })?,
    }
    Ok(interrupted(&stop))
}

pub(super) fn interrupted(stop: &AtomicBool) -> Exit {
    if stop.load(Ordering::SeqCst) {
        Exit::Interrupted
    } else {
        Exit::Done
    }
}
