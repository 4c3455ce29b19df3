//! `millhand demo`: real work on real files, and the proof that it was done right.
//!
//! The path of a file: `walk` finds it, `drive` enqueues its jobs, `tasks` runs them (async reads,
//! processes that count), `drive` merges what they answer, `proof` reads everything again by itself
//! and compares, `words` and `report` tell.

mod drive;
mod figures;
mod progress;
mod proof;
mod report;
mod tasks;
mod walk;
mod words;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args as ClapArgs;
use millhand_broker::{Backend, BackendUrl};
use millhand_client::Client;
use millhand_proto::QueueName;
use millhand_worker::{Slots, Worker};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::drive::{Ledger, Window};
use self::progress::{Drawing, Progress};
use self::proof::Verdict;
use self::walk::{Rules, Tree};
use crate::args::{Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Ui;

/// What the command line says.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The folder to read [default: this one, without hidden folders and target]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the report page goes [default: millhand-demo.html in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Spoil one piece, so that the proof fails
    #[arg(long, hide = true)]
    spoil: bool,
}

/// Set in the environment of a worker's child.
const CHILD: &str = "MILLHAND_CHILD";
/// How long running jobs may go on after Ctrl-C.
const GRACE: Duration = Duration::from_secs(1);

/// What was looked at, without the files themselves.
#[derive(Debug)]
struct Looked {
    folders: u64,
    links: u64,
    special: u64,
    passed: u64,
    took: Duration,
}

/// All that the words, the JSON and the page tell.
#[derive(Debug)]
struct Told<'a> {
    root: &'a Path,
    looked: &'a Looked,
    ledger: &'a Ledger,
    verdict: &'a Verdict,
    /// From the first job's enqueueing to the last result.
    took: Duration,
    slots: Slots,
    report: PathBuf,
    /// The most used plain words.
    top: Vec<(String, u64)>,
}

impl Told<'_> {
    fn succeeded(&self) -> bool {
        self.verdict.holds() && self.ledger.failed == 0
    }

    /// Walk and jobs together.
    fn whole(&self) -> Duration {
        self.looked.took + self.took
    }

    /// Why jobs took longer than one thread, where they did.
    fn why_slower(&self) -> Option<String> {
        let count = &self.ledger.count;
        let jobs = u32::try_from(count.whole.count()).unwrap_or(u32::MAX).max(1);
        (self.verdict.holds() && self.whole() > self.verdict.took).then(|| {
            format!(
                "a job has {} of CPU work in the mean, less than it costs to queue it safely",
                crate::times::human(count.cpu / jobs)
            )
        })
    }
}

/// Runs the demo.
pub(crate) fn run(args: &Args, global: &Global, ui: &Ui) -> Outcome {
    if std::env::var_os(CHILD).is_some_and(|v| v == "1") {
        return serve();
    }
    let place = place(global)?;
    let root = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = std::fs::read_dir(&root).map(drop);
    folder.map_err(|e| Failure::usage(format!("{}: {e}", root.display())).hint("name a folder that can be read"))?;
    let report = args
        .report
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join("millhand-demo.html"));
    let beside = report
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !beside.is_dir() || report.is_dir() {
        return Err(
            Failure::usage(format!("the report cannot be written to {}", report.display()))
                .hint("--report names a file in a folder that is there"),
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failed("runtime", &format!("no runtime can be started: {e}")))?;
    let ended = runtime.block_on(Box::pin(whole(args, place.as_ref(), ui, &root, &report)));
    // A read that hangs must not hold the program.
    runtime.shutdown_background();
    ended
}

/// The back end that the flags name; a file of its own where they name none.
fn place(global: &Global) -> Outcome<Option<BackendUrl>> {
    let (broker, store) = (global.broker.as_deref(), global.store.as_deref());
    if broker.is_none() && store.is_none() {
        return Ok(None);
    }
    // Beside a broker that needs one, a store that is set elsewhere is meant.
    let set = std::env::var("MILLHAND_STORE").ok();
    let needed = broker.is_some_and(|broker| broker.starts_with("amqp"));
    let url = BackendUrl::of(broker.unwrap_or_default(), store.or(set.as_deref().filter(|_| needed)));
    let wrong = |e: millhand_broker::UrlError| {
        let flag = if e.is_of_store() { "--store" } else { "--broker" };
        Failure::usage(format!("{flag}: {}", e.problem()))
    };
    url.map(Some).map_err(wrong)
}

fn failed(code: &'static str, message: &str) -> Failure {
    Failure::new(Exit::Failed, code, message)
}

/// A child process of the worker: nothing is opened, walked or printed here.
fn serve() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failed("runtime", &e.to_string()))?;
    let backend = millhand_broker::memory::Memory::standing()?;
    // It does not return in a child that has a worker.
    let ran = runtime.block_on(
        worker(
            backend,
            Slots {
                asyncs: 1,
                threads: 1,
                processes: 1,
            },
        )
        .run(async {}),
    );
    ran.map_err(|e| failed("child", &e.to_string()))?;
    Err(Failure::usage("MILLHAND_CHILD is set, but this is no worker's child").hint("unset MILLHAND_CHILD"))
}

fn worker(backend: Arc<dyn Backend>, slots: Slots) -> Worker {
    use millhand_proto::Task as _;
    Worker::new(backend)
        .queues([tasks::Read::QUEUE, tasks::Count::QUEUE])
        .slots(slots)
        .grace(GRACE)
        .on_async(tasks::read)
        .on_process(tasks::count)
}

/// The queues of the demo's tasks.
fn queues() -> Vec<QueueName> {
    use millhand_proto::Task as _;
    let names = [tasks::Read::QUEUE, tasks::Count::QUEUE];
    names.iter().filter_map(|name| QueueName::new(name).ok()).collect()
}

/// Ctrl-C, SIGTERM, and a terminal that goes away.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [int, term, hup] = kinds.map(signal);
        Ok(Self([int?, term?, hup?]))
    }

    async fn come(&mut self) {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted", "interrupted; nothing was left behind")
}

async fn whole(args: &Args, place: Option<&BackendUrl>, ui: &Ui, root: &Path, report: &Path) -> Outcome {
    // Before there is anything to be left behind.
    let mut interrupts = Interrupts::listen().map_err(|e| failed("signals", &e.to_string()))?;
    let began = SystemTime::now();
    let temporary = tempfile::Builder::new().prefix("millhand-demo-").tempdir();
    let temporary = temporary.map_err(|e| failed("temporary", &format!("no temporary folder: {e}")))?;
    // Twice the cores: while one child's job is claimed, another's is counted.
    let processes = Slots::default().processes * 2;
    let slots = Slots {
        asyncs: 64,
        threads: 1,
        processes,
    };
    let usual = args.dir.is_none();
    if usual {
        ui.note("reading this folder without hidden folders and target; millhand demo DIR reads all of DIR");
    }
    let progress = Arc::new(Progress::default());
    let drawing = Drawing::start(&progress, ui.style.ascii);

    // The work. Whatever comes of it, worker, children and files are gone before the next step.
    let plan = Plan {
        root,
        temporary: temporary.path(),
        place,
        usual,
        spoil: args.spoil,
        slots,
    };
    let done = session(plan, &progress, &mut interrupts).await;
    let removed = temporary.close();
    let (looked, ledger, took) = done?;
    removed.map_err(|e| failed("temporary", &format!("the temporary folder cannot be removed: {e}")))?;

    // The proof, of all of it, by one thread.
    progress.proving();
    let task = proof::Task {
        root: root.to_owned(),
        usual,
        began,
    };
    let shown = Arc::clone(&progress);
    let proving = tokio::task::spawn_blocking(move || {
        let verdict = proof::prove(&task, &ledger.claim, &shown);
        (ledger, verdict)
    });
    let (ledger, verdict) = tokio::select! {
        proved = proving => proved.map_err(|e| failed("proof", &e.to_string()))?,
        () = interrupts.come() => return Err(interrupted()),
    };
    drop(drawing);

    let told = Told {
        root,
        looked: &looked,
        top: top(&ledger),
        ledger: &ledger,
        verdict: &verdict,
        took,
        slots,
        report: report.to_owned(),
    };
    tell(&told, ui)
}

/// What a session needs to know.
struct Plan<'a> {
    root: &'a Path,
    temporary: &'a Path,
    place: Option<&'a BackendUrl>,
    usual: bool,
    spoil: bool,
    slots: Slots,
}

/// Walks, and runs the jobs on a file in the temporary folder, or where the flags say.
async fn session(
    plan: Plan<'_>,
    progress: &Arc<Progress>,
    interrupts: &mut Interrupts,
) -> Outcome<(Looked, Ledger, Duration)> {
    let started = Instant::now();
    let own = plan
        .temporary
        .metadata()
        .map_err(|e| failed("temporary", &e.to_string()))?;
    let rules = Rules {
        usual: plan.usual,
        own: (own.dev(), own.ino()),
    };
    let (root, shown) = (plan.root.to_owned(), Arc::clone(progress));
    let walking = tokio::task::spawn_blocking(move || walk::walk(&root, rules, &shown));
    let tree = tokio::select! {
        tree = walking => tree.map_err(|e| failed("walk", &e.to_string()))?,
        () = interrupts.come() => return Err(interrupted()),
    };
    let looked = look(&tree, started.elapsed());
    progress.counting(tree.bytes());

    let own = BackendUrl::Sqlite(plan.temporary.join("demo.db"));
    let backend = millhand_broker::open(plan.place.unwrap_or(&own))?;
    if plan.place.is_some() && backend.pending(queues()).await?.ready > 0 {
        let message = "jobs of another demo wait there";
        return Err(failed("demo", message).hint("wait for its end, or add another ?ns=NAME to the URLs"));
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let told = async {
        // An error says that the sender is gone, which is as good.
        let _ = stopped.await;
    };
    let mut running = tokio::spawn(Box::pin(worker(Arc::clone(&backend), plan.slots).run(told)));
    let client = Client::named(backend, "demo");
    let window = Window::new();
    let work = Box::pin(drive::drive(
        client.clone(),
        window.clone(),
        plan.root,
        tree,
        plan.spoil,
        Arc::clone(progress),
    ));
    let (done, ended) = tokio::select! {
        done = work => (done.map_err(|why| failed("demo", &why)), None),
        ended = &mut running => (Err(failed("worker", "the worker stopped by itself")), Some(ended)),
        () = interrupts.come() => (Err(interrupted()), None),
    };
    drop(stop);
    // It ends its children before it ends, and gives back what it does not run.
    let ended = match ended {
        Some(ended) => ended,
        None => running.await,
    };
    let ended = match ended {
        Ok(ended) => ended.map_err(|e| failed("worker", &e.to_string())),
        Err(error) => Err(failed("worker", &error.to_string())),
    };
    if plan.place.is_some() && done.is_err() {
        // Where others work, nothing is left to them, also not what is still on its way.
        window.close().await;
        for queue in queues() {
            if let Err(error) = client.admin().purge(queue.clone(), |_| true).await {
                let message = format!("queue {queue} may still hold jobs of this demo: {error}");
                let hint = format!("millhand queue purge {queue}");
                return Err(failed("demo", &message).hint(hint));
            }
        }
    }
    ended?;
    let (ledger, took) = done?;
    Ok((looked, ledger, took))
}

fn look(tree: &Tree, took: Duration) -> Looked {
    Looked {
        folders: tree.folders,
        links: tree.links,
        special: tree.special,
        passed: tree.passed,
        took,
    }
}

/// The ten most used plain words; among equals the first by alphabet.
fn top(ledger: &Ledger) -> Vec<(String, u64)> {
    let mut words: Vec<_> = ledger.claim.plain.iter().collect();
    words.sort_unstable_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    words.truncate(10);
    words
        .into_iter()
        .map(|(word, count)| (String::from_utf8_lossy(word).into_owned(), *count))
        .collect()
}

/// Writes the page and prints the words or the document.
fn tell(told: &Told<'_>, ui: &Ui) -> Outcome {
    let written = write_page(&told.report, &report::page(told));
    match ui.format {
        Format::Text => ui.print(&words::table(told, ui.style, written.is_ok()))?,
        Format::Json | Format::Jsonl => ui.document(&words::document(told))?,
    }
    written.map_err(|e| {
        failed(
            "report",
            &format!("the report cannot be written to {}: {e}", told.report.display()),
        )
    })?;
    Ok(if told.succeeded() { Exit::Done } else { Exit::Failed })
}

/// The page appears whole or not at all, and what stood there, or a link, is replaced.
fn write_page(path: &Path, page: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let beside = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".millhand-demo-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(beside)?;
    file.write_all(page.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
