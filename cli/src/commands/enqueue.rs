//! `millhand enqueue`

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use millhand_broker::{Clock, JobView, QueueView, WorkerView};
use millhand_client::{Client, EnqueueError, JobFailure, RawJob, WaitError};
use millhand_proto::{JobId, Payload, PayloadError, QueueName, State, limits};
use tokio::time::{Instant, timeout};

use crate::args::{EnqueueArgs, Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, clean};
use crate::show;
use crate::times::{self, When};
use crate::views::{EnqueueJson, raw};

/// After this long without an answer, that is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a wait without a limit lasts: longer than a process lives.
pub(super) const FOR_EVER: Duration = Duration::from_secs(10 * 366 * 86_400);

pub(super) async fn run(args: EnqueueArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let payload = payload(&args)?;
    let wait = args.wait.then_some(args.wait_timeout.unwrap_or(FOR_EVER));
    let began = Instant::now();
    let task = args.task.to_string();
    let queue = args.queue.clone().unwrap_or_default();
    let job = job(args, payload, &queue);
    // A job that is refused is refused before a file is made for it.
    job.clone()
        .into_core(JobId::given("check"), Clock::system().now(), None, None)
        .map_err(EnqueueError::Invalid)?;
    let client = super::client(&settings, true)?;
    // Known before it is enqueued: who waits for neither no longer can still look it up.
    let id = job.given_id().unwrap_or_else(|| client.mint());
    let enqueued = super::unless_interrupted(Box::pin(enqueue(&client, job.job_id(id), ui)), || {
        format!("the job may still be taken; look it up with: millhand job show {id}")
    });
    match timeout(wait.unwrap_or(FOR_EVER), enqueued).await {
        Ok(enqueued) => enqueued?,
        Err(_) => return Err(not_taken(&client, id, wait.unwrap_or_default())),
    }
    let Some(within) = wait else {
        client.close().await;
        match ui.format {
            Format::Text => ui.print(&id.to_string())?,
            _ => ui.document(&EnqueueJson::new(id.to_string(), task, queue.to_string()))?,
        }
        return Ok(Exit::Done);
    };
    let waiting = async {
        let mut ended = std::pin::pin!(client.wait_raw(id, within.saturating_sub(began.elapsed())));
        let ended = match timeout(PATIENCE, &mut ended).await {
            Ok(ended) => ended,
            Err(_) => {
                if let Some(why) = obstacle(&client, &queue).await {
                    ui.note(&format!("{why} It is waited for."));
                }
                ended.await
            }
        };
        Ok(ended.map_err(|error| match error {
            // The time of the enqueue counts too.
            WaitError::TimedOut { id, .. } => WaitError::TimedOut { id, after: within },
            error => error,
        })?)
    };
    let view = super::unless_interrupted(Box::pin(waiting), || {
        format!("the job goes on; wait again with: millhand job wait {id}")
    });
    match view.await {
        Err(late) if late.exit == Exit::TimedOut => Err(explained(late, &client, id).await),
        view => result(&view?, ui),
    }
}

/// Enqueues it; says so when that takes long, and why.
async fn enqueue(client: &Client, job: RawJob, ui: &Ui) -> Outcome<()> {
    let mut enqueued = std::pin::pin!(client.enqueue_raw(job));
    if let Ok(enqueued) = timeout(PATIENCE, &mut enqueued).await {
        enqueued?;
        return Ok(());
    }
    let place = client.backend().facts().place;
    ui.note(&format!(
        "{place} has not taken it yet; it is tried on{}",
        cause(client)
    ));
    enqueued.await?;
    Ok(())
}

/// Why nothing is taken, where that is known, to be put behind what is said of it.
fn cause(client: &Client) -> String {
    let trouble = client.backend().trouble();
    trouble.map_or_else(String::new, |why| format!(": {}", clean(&why, false)))
}

/// The time is up, and nobody can say what became of the job.
fn not_taken(client: &Client, id: JobId, within: Duration) -> Failure {
    let (within, cause) = (times::human(within), cause(client));
    let message = format!("job {id} was not taken within {within}, and may still be taken{cause}");
    Failure::new(Exit::TimedOut, "timed_out", message).hint(format!(
        "look it up with: millhand job show {id}; or enqueue it again with --id {id}: an id is one job"
    ))
}

/// What keeps the job, as far as it can be told.
async fn explained(mut late: Failure, client: &Client, id: JobId) -> Failure {
    let Ok(Some(view)) = client.get(id).await else {
        return late;
    };
    let sentence = show::sentence(&view, client.backend().now());
    late.message = format!("{}. {sentence}", late.message);
    if let Some(why) = obstacle(client, &view.queue).await {
        late.message = format!("{} {why}", late.message);
    }
    late
}

/// Why nothing is taken from this queue, where that is so.
async fn obstacle(client: &Client, queue: &QueueName) -> Option<String> {
    let (queues, workers) = (client.backend().queues().await, client.backend().workers().await);
    let paused = |view: &QueueView| view.name == *queue && view.paused.is_some();
    if queues.is_ok_and(|queues| queues.iter().any(paused)) {
        return Some(format!("Queue {queue} is paused."));
    }
    let takes = |worker: &WorkerView| worker.beat.queues.contains(queue);
    let nobody = workers.is_ok_and(|workers| !workers.iter().any(takes));
    nobody.then(|| format!("No worker takes jobs from queue {queue}."))
}

/// Prints the result of a job that ended, or says why there is none.
fn result(view: &JobView, ui: &Ui) -> Outcome {
    if view.entry.state != State::Succeeded {
        let failure = JobFailure::of(view);
        let message = format!("job {} is {}", view.id, clean(&failure.to_string(), true));
        return Err(Failure::new(Exit::JobFailed, "job_failed", message)
            .hint(format!("all about it: millhand job show {}", view.id)));
    }
    let lost = |why: String| {
        Failure::new(
            Exit::Failed,
            "no_result",
            format!("the result of job {}: {why}", view.id),
        )
    };
    let result = view
        .entry
        .result
        .as_ref()
        .ok_or_else(|| lost("it is not kept".into()))?;
    // Text is printed as it is; as JSON it stands in quotation marks.
    if ui.format == Format::Text
        && let Ok(text) = result.decode::<String>()
    {
        ui.print(&if std::io::stdout().is_terminal() {
            clean(&text, true)
        } else {
            text
        })?;
    } else {
        ui.print(raw(result).map_err(lost)?.get())?;
    }
    Ok(Exit::Done)
}

fn job(args: EnqueueArgs, payload: Payload, queue: &QueueName) -> RawJob {
    let mut job = RawJob::new(args.task, payload)
        .queue(queue.as_str())
        .class(args.priority);
    if let Some(id) = args.id {
        job = job.id(id);
    }
    match args.delay {
        Some(When::In(span)) => job = job.delay(span),
        Some(When::At(time)) => job = job.not_before(time),
        None => {}
    }
    match args.expires {
        Some(When::In(span)) => job = job.expires_in(span),
        Some(When::At(time)) => job = job.expires_at(time),
        None => {}
    }
    if let Some(retries) = args.retries {
        job = job.retries(retries);
    }
    if let Some(limit) = args.timeout {
        job = job.timeout(limit);
    }
    args.tag.into_iter().fold(job, RawJob::tag)
}

/// The arguments: text on the command line, a file, standard input, or nothing.
fn payload(args: &EnqueueArgs) -> Outcome<Payload> {
    let (source, bytes) = match (&args.args, &args.args_file) {
        (Some(text), _) if text == "-" => (
            "standard input".to_owned(),
            read(std::io::stdin().lock(), "standard input")?,
        ),
        (Some(text), _) => ("--args".to_owned(), text.clone().into_bytes()),
        (None, Some(path)) => (path.display().to_string(), read_file(path)?),
        (None, None) => ("--args".to_owned(), b"null".to_vec()),
    };
    Payload::json(bytes).map_err(|error| {
        let (message, syntax) = match error {
            PayloadError::Json(error) => (format!("{source} is not JSON: {error}"), true),
            error => (format!("{source}: {error}"), false),
        };
        let failure = Failure::new(Exit::Usage, "bad_arguments", message);
        if syntax && args.args.is_some() {
            failure.hint("text needs its own quotation marks: --args '\"text\"'")
        } else {
            failure
        }
    })
}

fn read_file(path: &Path) -> Outcome<Vec<u8>> {
    let shown = path.display().to_string();
    let file =
        std::fs::File::open(path).map_err(|e| Failure::new(Exit::Usage, "bad_arguments", format!("{shown}: {e}")))?;
    read(file, &shown)
}

/// Reads no more than can be too much.
fn read(from: impl Read, name: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limits::MESSAGE_BYTES).unwrap_or(u64::MAX);
    let read = from.take(most + 1).read_to_end(&mut bytes);
    let wrong = |problem: String| Failure::new(Exit::Usage, "bad_arguments", format!("{name}: {problem}"));
    read.map_err(|e| wrong(e.to_string()))?;
    if bytes.len() > limits::MESSAGE_BYTES {
        return Err(wrong(format!(
            "it is longer than a message may be; the limit \"arguments\" is {} bytes",
            limits::ARGS_BYTES
        )));
    }
    Ok(bytes)
}
