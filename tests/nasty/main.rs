//! Every nasty end that a job's process can take, in a Rust child, as a command and in a Python child, through
//! a worker as its users start it. Each time: the record says what happened, jobs beside it are not delayed,
//! and afterwards the worker holds what it held before.
//!
//! It has a `main` of its own, because the process executor starts this program again.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::needless_pass_by_value)]

mod beside;
mod cage;
mod deeds;
mod held;
mod tasks;
mod told;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use millhand::{Client, Worker};
use tokio::sync::oneshot;

use crate::beside::{Beside, Seen};
use crate::cage::Cage;
use crate::deeds::Deed;
use crate::held::Held;
use crate::tasks::{KINDS, Kind, SLOTS};

const PATIENCE: Duration = Duration::from_secs(600);
/// How long what ends is waited for.
const SOON: Duration = Duration::from_secs(20);
/// What a good job may take beside a nasty one, on a machine that others use too. It takes milliseconds.
const LATE: Duration = Duration::from_secs(5);

/// What all cases share: one worker, and what it held when it was warm.
struct Scene {
    client: Client,
    cage: Option<Cage>,
    warm: Held,
}

fn main() -> ExitCode {
    deeds::explode_if_told();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if std::env::var_os("MILLHAND_CHILD").is_some() {
        let nowhere = millhand::memory().unwrap();
        let ended = runtime.block_on(tasks::in_rust(Worker::new(nowhere)).run(std::future::pending()));
        panic!("a child serves its worker and does not return: {ended:?}");
    }
    if !held::is_marked() {
        // All that this process starts, and what that starts, is known by a word in its environment.
        let error = held::mark(Command::new("/proc/self/exe").args(std::env::args_os().skip(1))).exec();
        panic!("this program could not start itself: {error}");
    }
    runtime.block_on(run_all())
}

/// How the tests ended, in the words of the usual runner.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Tally {
    /// Runs one, whose failure is its panic.
    async fn test(&mut self, name: &str, test: impl Future<Output = ()> + Send + 'static) {
        let good = tokio::spawn(test).await.is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        *if good { &mut self.passed } else { &mut self.failed } += 1;
    }

    fn ignore(&mut self, name: &str, why: &str) {
        println!("test {name} ... ignored, {why}");
        self.ignored += 1;
    }

    fn end(self, out: usize) -> ExitCode {
        let Self {
            passed,
            failed,
            ignored,
        } = self;
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {out} filtered out"
        );
        u8::from(failed > 0).into()
    }
}

async fn run_all() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let all = Deed::ALL.into_iter().flat_map(|deed| KINDS.map(|kind| (deed, kind)));
    let named = all.map(|(deed, kind)| (format!("{deed:?}_{kind:?}").to_lowercase(), deed, kind));
    let (cases, out): (Vec<_>, Vec<_>) = named.partition(|(name, ..)| wanted(name));
    let mut tally = Tally::default();
    if cases.is_empty() {
        return tally.end(out.len() + 1);
    }
    println!("\nrunning {} tests", cases.len() + 1);

    let before = Held::now();
    let dir = tempfile::tempdir().unwrap();
    let backend = millhand::sqlite(dir.path().join("jobs.db")).unwrap();
    let (cage, no_cage) = match Cage::new() {
        Ok(cage) => (Some(cage), String::new()),
        Err(why) => (None, format!("nothing bounds a fork bomb here: {why}")),
    };
    let worker = tasks::worker(Arc::clone(&backend), cage.as_ref());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(worker.run(async { drop(stopped.await) }));
    let client = Client::new(backend);
    let warm = warm_up(&client).await;
    println!("warm: {warm:?}");
    let scene = Arc::new(Scene { client, cage, warm });

    for (name, deed, kind) in cases {
        if deed == Deed::Bomb && scene.cage.is_none() {
            tally.ignore(&name, &no_cage);
        } else {
            let case = case(Arc::clone(&scene), name.clone(), deed, kind);
            tally.test(&name, case).await;
        }
    }
    let end = async move {
        drop(stop);
        running.await.unwrap().unwrap();
        scene.client.close().await;
        drop(scene);
        before.is_back_after_the_end().await;
    };
    tally.test("a_worker_that_stopped_holds_nothing", end).await;
    tally.end(out.len())
}

/// Some of everything, so that what is started once is there.
async fn warm_up(client: &Client) -> Held {
    for kind in KINDS {
        for deed in [Deed::ExitZero, Deed::Orphan] {
            let job = client.enqueue_raw(tasks::job(deed, kind, None)).await.unwrap();
            client.wait_raw(job, PATIENCE).await.unwrap();
        }
    }
    Seen::default().run(client, 100).await;
    Held::at_rest().await
}

async fn case(scene: Arc<Scene>, name: String, deed: Deed, kind: Kind) {
    let Scene { client, cage, warm } = &*scene;
    let cage = cage.as_ref().filter(|_| deed == Deed::Bomb);
    if let Some(cage) = cage {
        cage.is_empty().await;
    }
    let refused = cage.map_or(0, Cage::refused);
    let beside = Beside::start(client.clone()).await;
    let id = client.enqueue_raw(tasks::job(deed, kind, cage)).await.unwrap();
    let job = client.wait_raw(id, PATIENCE).await.unwrap();
    let seen = beside.stop().await;

    let ran = job.entry.ended.unwrap().since(job.entry.started.unwrap());
    let (count, median, longest) = (seen.waits.len(), seen.median(), seen.longest());
    println!(
        "{name}: ended after {ran:.1?}; {count} good jobs beside it, {median:.1?} each in the median, {longest:.1?} at most"
    );
    let log = client.log(id).await.unwrap();
    told::check(deed, kind, &job, log.as_ref());
    if let Some(cage) = cage {
        assert!(cage.refused() > refused, "the bomb did not fill its cage");
    }
    assert!(longest < LATE, "a good job took {longest:?}");
    assert!(
        warm.allows(seen.memory),
        "it held {warm:?}, and {} bytes of memory meanwhile",
        seen.memory
    );
    let held = warm.is_back().await;
    println!("  {held:?}");
    assert!(
        held.children <= 3 * (SLOTS + 1),
        "of each program: its slots and a spare"
    );
}
