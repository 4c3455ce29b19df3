//! Every executor with jobs that behave and jobs that do not.

mod children;
mod commands;
mod watched;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};

use millhand_proto::{Task, limits};
use serde::{Deserialize, Serialize};

use super::*;
use crate::failure::Failure;
use crate::registry::{CommandKind, CommandTask, TaskOptions};

/// What the handlers of these tests are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Deed {
    Add(u32),
    Panic,
    Sleep,
    SpinUntilCancelled,
    Exit,
    Abort,
    Garbage,
    Big,
    Pid,
    ExitWell,
    Segfault,
    Swallow,
    Print,
    Orphan,
    Nap,
    NapAndPanic,
    Work,
    QuickOrphan,
    FloodLines,
    FloodFrames,
    Leak,
    LateWord,
    LateFrame,
}

/// How long naps and work take.
const SPAN: Duration = Duration::from_millis(50);

macro_rules! task {
    ($name:ident, $text:literal) => {
        #[derive(Serialize, Deserialize)]
        struct $name(Deed);
        impl Task for $name {
            const NAME: &'static str = $text;
            type Output = Vec<u8>;
        }
    };
}
task!(OnAsync, "on-async");
task!(OnThread, "on-thread");
task!(OnProcess, "on-process");

fn act(deed: Deed, cx: &Context) -> Result<Vec<u8>, Failure> {
    match deed {
        Deed::Add(n) => Ok((n + 1).to_be_bytes().to_vec()),
        Deed::Panic => panic!("at the disco"),
        Deed::Sleep => {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(Vec::new())
        }
        Deed::SpinUntilCancelled => {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Failure::new("stopped half way"))
        }
        Deed::Exit => std::process::exit(3),
        Deed::Abort => {
            eprintln!("these are my last words");
            std::process::abort()
        }
        Deed::Garbage => {
            use std::io::Write;
            use std::os::fd::AsFd;
            let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
            std::fs::File::from(socket).write_all(&[0xff; 64])?;
            std::thread::sleep(Duration::from_secs(3600));
            Ok(Vec::new())
        }
        Deed::Big => Ok(vec![0; millhand_proto::limits::RESULT_BYTES + 1]),
        Deed::Pid => Ok(std::process::id().to_be_bytes().to_vec()),
        Deed::ExitWell => std::process::exit(0),
        Deed::Segfault => {
            // The first one only takes away the handler that Rust has for stacks that overflow.
            loop {
                let this = rustix::process::getpid();
                rustix::process::kill_process(this, rustix::process::Signal::SEGV)?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Deed::Swallow => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&all);
            }
        }
        Deed::Print => {
            let line = "x".repeat(1023);
            for _ in 0..64 << 10 {
                println!("{line}");
            }
            Ok(Vec::new())
        }
        Deed::Orphan | Deed::QuickOrphan => {
            let orphan = std::process::Command::new("sleep").arg("3600").spawn()?;
            if deed == Deed::Orphan {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(orphan.id().to_be_bytes().to_vec())
        }
        Deed::Nap => {
            std::thread::sleep(SPAN);
            Ok(Vec::new())
        }
        Deed::NapAndPanic => {
            std::thread::sleep(SPAN);
            panic!("woken up")
        }
        Deed::FloodLines => loop {
            rustix::io::write(std::io::stdout(), &[b'\n'; 64 << 10])?;
        },
        Deed::FloodFrames => loop {
            cx.log("again");
        },
        Deed::Leak => {
            std::mem::forget(vec![1_u8; 4 << 20]);
            Ok(std::process::id().to_be_bytes().to_vec())
        }
        Deed::LateWord => {
            let cx = cx.clone();
            std::thread::spawn(move || {
                std::thread::sleep(SPAN / 2);
                cx.log("too late");
            });
            Ok(Vec::new())
        }
        Deed::LateFrame => {
            let (job, text) = (cx.job_id(), "too late".to_owned());
            let mut late = Vec::new();
            frames::Frame::Log(frames::LogLine { job, text }).append_to(&mut late)?;
            std::thread::spawn(move || {
                std::thread::sleep(SPAN / 2);
                rustix::io::write(std::io::stdin(), &late).unwrap();
            });
            Ok(Vec::new())
        }
        Deed::Work => {
            let until = meter::cpu_time() + SPAN;
            while meter::cpu_time() < until {}
            Ok(Vec::new())
        }
    }
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    let plain = TaskOptions::default();
    registry.on_async(
        async |job: OnAsync, cx| match job.0 {
            Deed::Sleep => std::future::pending().await,
            deed => act(deed, &cx),
        },
        plain,
    );
    registry.on_thread(|job: OnThread, cx| act(job.0, &cx), plain);
    registry.on_process(|job: OnProcess, cx| act(job.0, &cx), plain);
    for (name, script) in [
        ("count", "wc -w"),
        ("text", "echo not json"),
        ("fails", "echo it is broken >&2; exit 3"),
        ("fails-after-step", "echo step 1; exit 3"),
        ("sleeps-after-step", "echo step 1; exec sleep 3600"),
        ("dies", "kill -SEGV $$"),
        ("sleeps", "sleep 3600 & wait"),
        ("deaf", "trap '' TERM; sleep 3600 & wait; wait"),
        ("leaves", "sleep 3600 & echo 7"),
        ("deserter", "setsid sleep 5 & echo 8"),
        ("prints", "head -c 30000000 /dev/zero | tr '\\0' 7"),
        (
            "tells",
            "echo \"\\\"$MILLHAND_TASK $MILLHAND_ATTEMPT $MILLHAND_JOB_ID\\\"\"",
        ),
    ] {
        registry.command(command(name, &["sh", "-c", script]));
    }
    registry.command(command("missing", &["/no/such/program"]));
    registry
}

fn command(name: &str, command: &[&str]) -> CommandTask {
    CommandTask {
        name: TaskName::new(name).unwrap(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        kind: CommandKind::Command,
        options: TaskOptions::default(),
    }
}

/// What the re-executed test binary runs; nothing when it is run as a test.
#[test]
fn child_main() {
    if crate::child::is_child() {
        crate::child::serve(Arc::new(registry()), Arc::default());
    }
}

/// The same for a program whose `main` holds the lock of its standard output all along.
#[test]
fn child_main_holding_its_output() {
    if crate::child::is_child() {
        let _held = std::io::stdout().lock();
        crate::child::serve(Arc::new(registry()), Arc::default());
    }
}

fn executors() -> Executors {
    let sizes = Sizes {
        asyncs: 4,
        threads: 2,
        processes: 2,
        recycle: Recycle::default(),
    };
    let mut executors =
        Executors::start(Arc::new(registry()), sizes, None, limits::BLOCK_LIMIT, Arc::default()).unwrap();
    let args = ["--exact", "executors::tests::child_main", "--nocapture"]
        .map(OsString::from)
        .to_vec();
    let command = processes::ChildCommand {
        args,
        ..processes::ChildCommand::this_program().unwrap()
    };
    executors.processes = processes::Processes::new(command, sizes.processes, Recycle::default());
    executors
}

pub(super) fn run(task: &str, args: Payload) -> Run {
    Run {
        job: JobId::given("a job"),
        root: JobId::given("a job"),
        task: TaskName::new(task).unwrap(),
        attempt: 2,
        fence: Fence {
            hand: 0,
            claim: 1,
            token: 7,
        },
        claimed: Timestamp::from_micros(1_790_000_000_000_000),
        args,
        stop: Stop::default(),
        soft: None,
        hard: None,
        memory: None,
        log: JobLog::default(),
        suspect: false,
    }
}

fn deed(task: &str, deed: Deed) -> Run {
    run(task, Payload::encode(&deed).unwrap())
}

/// Runs it, and stops it after 100 ms with `stop`.
async fn stopped(executors: &Executors, run: Run, stop: impl FnOnce(&Stop)) -> Outcome {
    let handle = run.stop.clone();
    let running = executors.run(run);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop(&handle);
    };
    tokio::join!(running, stopping).0.outcome
}

/// Runs it, and sees that it ends at its soft limit and that its log tells once that it was asked to.
async fn ended_at_soft(executors: &Executors, run: Run) {
    let (task, log, soft) = (run.task.clone(), run.log.clone(), run.soft.unwrap());
    let ran = executors.run(run).await;
    assert_eq!(ran.outcome, Outcome::TimedOut(TimeLimit::Soft(soft)), "{task}");
    let told = format!("asked to end at its soft limit of {soft:?}");
    let said = String::from_utf8_lossy(&log.take(1).unwrap()).into_owned();
    assert_eq!(said.matches(&told).count(), 1, "{task}: {said}");
}

fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { error, .. } | Outcome::Fatal { error, .. } | Outcome::Crashed { error, .. } => error.as_str(),
        other => panic!("{other:?} has no error"),
    }
}

fn number(outcome: Outcome) -> u32 {
    let Outcome::Succeeded(result) = outcome else {
        panic!("{outcome:?}")
    };
    u32::from_be_bytes(result.decode::<Vec<u8>>().unwrap().try_into().unwrap())
}

#[tokio::test]
async fn each_executor_runs_a_job_catches_a_panic_and_refuses_bad_arguments() {
    let executors = executors();
    for task in ["on-async", "on-thread", "on-process"] {
        let ran = executors.run(deed(task, Deed::Add(41))).await;
        assert_eq!(number(ran.outcome), 42, "{task}");
        assert!(ran.cpu.is_some(), "{task}");
        assert_eq!(ran.blocked.is_some(), task == "on-async");
        let panicked = executors.run(deed(task, Deed::Panic)).await.outcome;
        assert!(matches!(panicked, Outcome::Failed { .. }), "{task} {panicked:?}");
        let said = text(&panicked);
        assert!(
            said.starts_with("panicked: at the disco\nat worker/src/executors/tests.rs:"),
            "{task}: {said}"
        );
        assert!(said.contains("executors::tests::act\n"), "{task}: {said}");
        for machinery in ["src/registry.rs", "catch", "tokio", "std::"] {
            assert!(!said.contains(machinery), "{task}: {said}");
        }
        let refused = executors.run(run(task, Payload::json("{}").unwrap())).await.outcome;
        assert!(
            matches!(&refused, Outcome::Fatal { reason, .. } if reason == "bad_arguments"),
            "{refused:?}"
        );
    }
    executors.stop().await;
}

#[tokio::test]
async fn cpu_time_is_what_the_handlers_thread_used_and_run_is_what_the_clock_says() {
    let executors = executors();
    for task in ["on-thread", "on-process"] {
        // Side by side: what a neighbour uses is not laid to the one that sleeps.
        let (napped, worked) = tokio::join!(
            executors.run(deed(task, Deed::Nap)),
            executors.run(deed(task, Deed::Work))
        );
        assert!(napped.cpu.unwrap() < Duration::from_millis(20), "{task}: {napped:?}");
        assert!(napped.run >= SPAN, "{task}: {napped:?}");
        assert!(worked.cpu.unwrap() >= Duration::from_millis(45), "{task}: {worked:?}");
        assert!(
            worked.cpu.unwrap() <= worked.run + Duration::from_millis(5),
            "{task}: {worked:?}"
        );
        let panicked = executors.run(deed(task, Deed::NapAndPanic)).await;
        // A backtrace costs CPU time too.
        let slept = panicked.run.saturating_sub(panicked.cpu.unwrap());
        assert!(slept >= Duration::from_millis(45), "{task}: {panicked:?}");
    }
    executors.stop().await;
}

#[tokio::test]
async fn what_waits_or_runs_on_is_stopped_at_its_limit_or_when_asked() {
    let executors = executors();
    let limit = Duration::from_millis(300);
    for task in ["on-async", "on-process", "sleeps"] {
        let limited = Run {
            hard: Some(limit),
            ..deed(task, Deed::Sleep)
        };
        assert_eq!(
            executors.run(limited).await.outcome,
            Outcome::TimedOut(TimeLimit::Hard(limit)),
            "{task}"
        );
        let cancelled = stopped(&executors, deed(task, Deed::Sleep), Stop::cancel).await;
        assert_eq!(cancelled, Outcome::Cancelled, "{task}");
        let interrupted = stopped(&executors, deed(task, Deed::Sleep), Stop::shutdown).await;
        assert_eq!(interrupted, Outcome::Interrupted, "{task}");
    }
    for task in ["on-thread", "on-process"] {
        let asked = stopped(&executors, deed(task, Deed::SpinUntilCancelled), Stop::cancel).await;
        assert_eq!(asked, Outcome::Cancelled, "{task}");
    }
    let over = Run {
        hard: Some(limit),
        ..deed("on-thread", Deed::SpinUntilCancelled)
    };
    assert_eq!(
        executors.run(over).await.outcome,
        Outcome::TimedOut(TimeLimit::Hard(limit))
    );
    assert_eq!(
        stopped(&executors, deed("deaf", Deed::Sleep), Stop::cancel).await,
        Outcome::Cancelled
    );
    executors.stop().await;
}

#[tokio::test]
async fn an_aborted_future_runs_no_further() {
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::SeqCst);
        }
    }
    let mut registry = Registry::default();
    let handler = async |_: OnAsync, _| {
        let _guard = Guard;
        std::future::pending().await
    };
    registry.on_async(handler, TaskOptions::default());
    let sizes = Sizes {
        asyncs: 1,
        threads: 1,
        processes: 1,
        recycle: Recycle::default(),
    };
    let handle = Some(tokio::runtime::Handle::current());
    let executors = Executors::start(Arc::new(registry), sizes, handle, limits::BLOCK_LIMIT, Arc::default()).unwrap();
    assert_eq!(
        stopped(&executors, deed("on-async", Deed::Sleep), Stop::cancel).await,
        Outcome::Cancelled
    );
    assert!(DROPPED.load(Ordering::SeqCst));
}
