//! Every executor with jobs that behave and jobs that do not.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};

use millhand_proto::Task;
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
}

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

fn executors() -> Executors {
    let sizes = Sizes {
        asyncs: 4,
        threads: 2,
        processes: 2,
        recycle: Recycle::default(),
    };
    let mut executors = Executors::start(
        Arc::new(registry()),
        sizes,
        tokio::runtime::Handle::current(),
        Arc::default(),
    )
    .unwrap();
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

fn run(task: &str, args: Payload) -> Run {
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
        stop: Stop::new(),
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
        assert_eq!(ran.cpu.is_some(), task != "on-async");
        let panicked = executors.run(deed(task, Deed::Panic)).await.outcome;
        assert!(matches!(panicked, Outcome::Failed { .. }), "{task} {panicked:?}");
        assert_eq!(text(&panicked), "panicked: at the disco", "{task}");
        let refused = executors.run(run(task, Payload::json("{}").unwrap())).await.outcome;
        assert!(
            matches!(&refused, Outcome::Fatal { reason, .. } if reason == "bad_arguments"),
            "{refused:?}"
        );
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
        assert_eq!(executors.run(limited).await.outcome, Outcome::TimedOut(limit), "{task}");
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
    assert_eq!(executors.run(over).await.outcome, Outcome::TimedOut(limit));
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
    let handle = tokio::runtime::Handle::current();
    let executors = Executors::start(Arc::new(registry), sizes, handle, Arc::default()).unwrap();
    assert_eq!(
        stopped(&executors, deed("on-async", Deed::Sleep), Stop::cancel).await,
        Outcome::Cancelled
    );
    assert!(DROPPED.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_child_is_kept_warm_and_a_suspect_gets_its_own() {
    let executors = executors();
    let pid = async |suspect| {
        number(
            executors
                .run(Run {
                    suspect,
                    ..deed("on-process", Deed::Pid)
                })
                .await
                .outcome,
        )
    };
    let first = pid(false).await;
    assert_eq!(pid(false).await, first);
    assert_ne!(pid(true).await, first);
    assert_eq!(pid(false).await, first);
    // A child that dies while it is idle costs no job anything.
    let dead = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process_group(dead, rustix::process::Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_ne!(pid(false).await, first);
    executors.stop().await;
}

#[tokio::test]
async fn a_child_that_breaks_costs_its_job_a_crash_with_its_cause() {
    let executors = executors();
    for (what, cause) in [
        (Deed::Exit, "exit code 3"),
        (Deed::Abort, "killed by SIGABRT"),
        (Deed::Abort, "these are my last words"),
        (Deed::Garbage, "longer than"),
    ] {
        let crashed = executors.run(deed("on-process", what)).await.outcome;
        assert!(matches!(crashed, Outcome::Crashed { .. }), "{what:?} {crashed:?}");
        assert!(text(&crashed).contains(cause), "{what:?} {crashed:?}");
        assert_eq!(number(executors.run(deed("on-process", Deed::Add(1))).await.outcome), 2);
    }
    let big = executors.run(deed("on-process", Deed::Big)).await.outcome;
    assert!(
        matches!(&big, Outcome::Fatal { reason, .. } if reason == "result_too_big"),
        "{big:?}"
    );
    // Bigger than the socket holds.
    let args = Payload::encode(&"x".repeat(5 << 20)).unwrap();
    let refused = executors.run(run("on-process", args)).await.outcome;
    assert!(matches!(refused, Outcome::Fatal { .. }));
    executors.stop().await;
}

#[tokio::test]
async fn a_program_that_is_no_child_is_no_child() {
    let mut executors = executors();
    for (script, why) in [("exit 4", "exit code 4"), ("echo hello >&0; sleep 60", "protocol")] {
        let args = ["-c", script].map(OsString::from).to_vec();
        let command = processes::ChildCommand {
            program: "/bin/sh".into(),
            arg0: None,
            args,
        };
        executors.processes = processes::Processes::new(command, 1, Recycle::default());
        let failed = executors.run(deed("on-process", Deed::Add(1))).await.outcome;
        assert!(matches!(failed, Outcome::Failed { .. }), "{failed:?}");
        assert!(text(&failed).contains(why), "{failed:?}");
    }
}

#[tokio::test]
async fn commands_answer_with_their_output() {
    let executors = executors();
    let words = Payload::json(r#""a b c""#).unwrap();
    let answer = async |task| match executors.run(run(task, words.clone())).await.outcome {
        Outcome::Succeeded(result) => result.to_json().unwrap(),
        other => format!("{other:?}"),
    };
    assert_eq!(answer("count").await, "3");
    assert_eq!(answer("text").await, r#""not json""#);
    assert_eq!(answer("tells").await, format!("\"tells 2 {}\"", JobId::given("a job")));
    let started = Instant::now();
    assert_eq!(answer("leaves").await, "7");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a grandchild of the group is killed"
    );
    assert_eq!(answer("deserter").await, "8");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "one that left the group is not waited for"
    );
    let printed = answer("prints").await.len();
    assert!(printed > millhand_proto::limits::RESULT_BYTES && printed < millhand_proto::limits::RESULT_BYTES + 16);
}

#[tokio::test]
async fn commands_fail_with_their_last_words() {
    let executors = executors();
    // More than a pipe holds, to commands that never read it.
    let args = Payload::json(format!("{:?}", "x".repeat(1 << 20))).unwrap();
    let end = async |task| executors.run(run(task, args.clone())).await.outcome;
    let fails = end("fails").await;
    assert!(matches!(fails, Outcome::Failed { .. }));
    assert_eq!(text(&fails), "exit code 3; the end of standard error:\nit is broken");
    let dies = end("dies").await;
    assert!(matches!(dies, Outcome::Crashed { .. }));
    assert_eq!(text(&dies), "killed by SIGSEGV");
    assert!(text(&end("missing").await).contains("\"/no/such/program\" could not be started"));
}
