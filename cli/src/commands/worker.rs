//! `millhand worker`

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use millhand_proto::{QueueName, RetryWish, TaskName, TimeLimits};
use millhand_worker::{CommandKind, CommandTask, TaskOptions, Worker, WorkerError};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Global, WorkerArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, plural};
use crate::settings::{Flags, Settings, TaskSettings};

pub(super) fn run(args: &WorkerArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::load(&Flags {
        health: args.health.clone(),
        ..super::flags(global)
    })?;
    let level = level()?;
    let refused = |e: &dyn std::fmt::Display| Failure::new(Exit::Usage, "settings", e.to_string());
    if settings.tasks.is_empty() {
        let file = settings
            .file
            .as_ref()
            .map_or_else(|| "millhand.toml".into(), |f| f.display().to_string());
        return Err(refused(&format!(
            "there is no task: a worker needs a [tasks.NAME] with a command in {file}"
        ))
        .hint("a worker of tasks written in Rust is a program of your own: see the README"));
    }
    if args.check {
        // Nothing is made by a check, and no server asked; a file that is there must be one that the worker can
        // use, and so must certificates.
        let usable = match &settings.broker {
            millhand_broker::BackendUrl::Sqlite(path) => path.exists(),
            _ => true,
        };
        if usable {
            millhand_broker::open(&settings.broker)?;
        }
        let memory = millhand_broker::open(&millhand_broker::BackendUrl::Memory)?;
        build(memory, &settings).check().map_err(|e| refused(&e))?;
        for (name, task) in &settings.tasks {
            if let Some(program) = task.command.first().filter(|program| !is_program(program)) {
                let key = match task.kind {
                    CommandKind::Command => "command",
                    CommandKind::Child => "child",
                };
                let problem = format!("tasks.{name}.{key}: there is no program {program:?} that can be run");
                return Err(refused(&problem).hint("name it by its path, or put its folder into PATH"));
            }
        }
        ui.note(&format!(
            "settings are right: {}; servers were not asked",
            summary(&settings)
        ));
        return Ok(Exit::Done);
    }
    let worker = build(millhand_broker::open(&settings.broker)?, &settings);
    worker.check().map_err(|e| refused(&e))?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(ui.style.color)
        .with_target(false)
        .finish()
        // Our own words only: lapin logs a message that RabbitMQ returns with its body, and frames with
        // all they hold, so with the password.
        .with(Targets::new().with_target("millhand", level))
        .init();
    tracing::info!("worker starts: {}", summary(&settings));
    let run = worker.run(millhand_worker::shutdown_signal());
    let ended = crate::runtime()?.block_on(Box::pin(run));
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(WorkerError::Backend(error)) => Err(error.into()),
        Err(error) => {
            let message = error.to_string();
            Err(match error {
                WorkerError::Health { address, source } => {
                    super::not_bound(message, source.kind(), "--health", address)
                }
                _ => Failure::new(Exit::Failed, "worker", message),
            })
        }
    }
}

/// Whether it can be run from here: by its path, or from a folder in PATH.
fn is_program(name: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |path: &Path| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return runs(Path::new(name));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| runs(&folder.join(name)))
}

fn build(backend: std::sync::Arc<dyn millhand_broker::Backend>, settings: &Settings) -> Worker {
    let worker = &settings.worker;
    let queues = worker.queues.iter().map(QueueName::as_str);
    let start = Worker::new(backend)
        .queues(queues)
        .slots(worker.slots())
        .grace(worker.grace)
        .recycle(worker.recycle);
    let start = match worker.health {
        Some(address) => start.health_at(address),
        None => start,
    };
    settings
        .tasks
        .iter()
        .fold(start, |worker, (name, task)| worker.command(command(name, task)))
}

fn command(name: &TaskName, task: &TaskSettings) -> CommandTask {
    let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    CommandTask {
        name: name.clone(),
        command: task.command.clone(),
        kind: task.kind,
        options: TaskOptions {
            limits: TimeLimits {
                soft_ms: task.soft_timeout.map(millis),
                hard_ms: task.timeout.map(millis),
            },
            retry: RetryWish {
                retries: task.retries,
                ..RetryWish::default()
            },
            crashes: task.crashes,
            memory: task.memory,
            slots: task.slots,
            ..TaskOptions::default()
        },
    }
}

fn summary(settings: &Settings) -> String {
    let worker = &settings.worker;
    let file = settings
        .file
        .as_ref()
        .map_or_else(|| "no file".to_owned(), |f| f.display().to_string());
    let queues: Vec<_> = worker.queues.iter().map(QueueName::as_str).collect();
    let slots = worker.slots();
    format!(
        "{} of {file} on {}; slots: {} async, {} thread{}, {} process{}",
        plural(settings.tasks.len() as u64, "task"),
        queues.join(", "),
        slots.asyncs,
        slots.threads,
        whence(worker.threads),
        slots.processes,
        whence(worker.processes),
    )
}

/// Where a number of slots comes from.
fn whence(set: Option<usize>) -> &'static str {
    match set {
        Some(_) => " (set)",
        None => " (one per core that affinity and quota allow)",
    }
}

/// What is written to standard error.
fn level() -> Outcome<LevelFilter> {
    match std::env::var("MILLHAND_LOG") {
        Err(std::env::VarError::NotPresent) => Ok(LevelFilter::INFO),
        Ok(text) if text.is_empty() => Ok(LevelFilter::INFO),
        Ok(text) => LevelFilter::from_str(&text).map_err(|_| {
            Failure::usage(format!(
                "MILLHAND_LOG = {text:?}: it is none of off, error, warn, info, debug, trace"
            ))
        }),
        Err(_) => Err(Failure::usage("MILLHAND_LOG: it is no UTF-8 text")),
    }
}
