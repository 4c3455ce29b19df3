//! The commands.

mod act;
mod advise;
mod child_check;
mod completion;
mod dashboard;
mod dead;
mod enqueue;
mod health;
mod job;
mod limits;
mod queue;
mod stats;
mod worker;
mod workers;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use millhand_broker::BackendUrl;
use millhand_client::Client;

use crate::args::{Cli, Command, Global, WorkerCommand};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Ui;
use crate::settings::{Flags, Settings};

/// Runs one command.
pub(crate) fn run(cli: Cli, ui: &Ui) -> Outcome {
    let Cli { command, global } = cli;
    match command {
        Command::Demo(args) => crate::demo::run(&args, &global, ui),
        Command::Worker(args) => match args.command {
            Some(WorkerCommand::List) => block_on(workers::list(&global, ui)),
            Some(WorkerCommand::Health(args)) => block_on(health::run(&args, &global, ui)),
            None => worker::run(&args, &global, ui),
        },
        Command::Enqueue(args) => block_on(enqueue::run(args, &global, ui)),
        Command::Job(command) => block_on(job::run(command, &global, ui)),
        Command::Queue(command) => block_on(queue::run(command, &global, ui)),
        Command::Dashboard(args) => block_on(dashboard::run(args, &global, ui)),
        Command::Dead(command) => block_on(dead::run(command, &global, ui)),
        Command::Stats(args) => block_on(stats::run(args, &global, ui)),
        Command::Advise(args) => block_on(advise::run(args, &global, ui)),
        Command::ChildCheck(args) => child_check::run(args, ui),
        Command::Limits => limits::run(ui),
        Command::Completion { shell } => completion::run(shell, ui),
        topic @ (Command::ExitCodes | Command::Environment | Command::Json) => {
            ui.print(topic.topic().unwrap_or_default())?;
            Ok(Exit::Done)
        }
    }
}

fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = crate::runtime()?;
    let outcome = runtime.block_on(command);
    // A wait may still be reading its mailbox: nobody needs its end.
    runtime.shutdown_background();
    outcome
}

/// The settings, with what the flags say.
fn settings(global: &Global) -> Outcome<Settings> {
    load(&flags(global))
}

fn flags(global: &Global) -> Flags {
    Flags {
        config: global.config.clone(),
        broker: global.broker.clone(),
        store: global.store.clone(),
        health: None,
    }
}

fn load(flags: &Flags) -> Outcome<Settings> {
    Settings::load(flags).map_err(|e| Failure::new(Exit::Usage, "settings", e.to_string()))
}

/// A client of the back end that the settings name. `makes` when the command may make the file.
fn client(settings: &Settings, makes: bool) -> Outcome<Client> {
    match &settings.broker {
        BackendUrl::Memory => Err(Failure::usage("memory: ends with its process, so no other can use it")
            .hint("name a file, as --broker sqlite:millhand.db")),
        BackendUrl::Sqlite(path) if !makes && !exists(path) => {
            let message = format!("there is no file {}", path.display());
            Err(Failure::new(Exit::Unreachable, "store_unreachable", message)
                .hint("millhand worker and millhand enqueue make it; --broker names another"))
        }
        url => Ok(Client::named(millhand_broker::open(url)?, "millhand")),
    }
}

fn exists(path: &Path) -> bool {
    // Only what is surely missing is said to be missing.
    !matches!(path.try_exists(), Ok(false))
}

/// An address that cannot be listened on, and what may be done: each cause asks for something else.
fn not_bound(message: String, why: io::ErrorKind, flag: &str, address: SocketAddr) -> Failure {
    let failure = Failure::new(Exit::Failed, "bind", message);
    let ip = match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    match why {
        io::ErrorKind::AddrInUse => failure.hint(format!(
            "another program listens there; {flag} {ip}:0 takes any port that is free, and says which"
        )),
        io::ErrorKind::AddrNotAvailable => failure.hint(format!(
            "{ip} is no address of this machine; {flag} 127.0.0.1:{} is for this machine only",
            address.port()
        )),
        io::ErrorKind::PermissionDenied if address.port() < 1024 => failure.hint(format!(
            "ports below 1024 need more rights than this user has; {flag} {ip}:0 takes any port that is free, and says \
             which"
        )),
        _ => failure,
    }
}

/// Ends a command at Ctrl-C.
async fn unless_interrupted<T>(work: impl Future<Output = Outcome<T>>, hint: impl FnOnce() -> String) -> Outcome<T> {
    tokio::select! {
        outcome = work => outcome,
        Ok(()) = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Interrupted, "interrupted", "interrupted").hint(hint()))
        }
    }
}
