//! Every executor with jobs that behave and jobs that do not.

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
        Deed::Orphan => {
            let orphan = std::process::Command::new("sleep").arg("3600").spawn()?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(orphan.id().to_be_bytes().to_vec())
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
    let handle = Some(tokio::runtime::Handle::current());
    let executors = Executors::start(Arc::new(registry), sizes, handle, limits::BLOCK_LIMIT, Arc::default()).unwrap();
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

/// Executors of these tasks alone, on a runtime of their own, looked after as the loop does it.
fn looked_after(registry: Registry, threads: usize, block_limit: Duration) -> Arc<Executors> {
    let sizes = Sizes {
        asyncs: 100,
        threads,
        processes: 1,
        recycle: Recycle::default(),
    };
    let executors = Executors::start(Arc::new(registry), sizes, None, block_limit, Arc::default()).unwrap();
    let executors = Arc::new(executors);
    let looked_at = Arc::downgrade(&executors);
    // From a thread that no task can hold.
    std::thread::spawn(move || {
        while let Some(executors) = looked_at.upgrade() {
            executors.look();
            drop(executors);
            std::thread::sleep(lag::PROBE);
        }
    });
    executors
}

/// As many threads as make every core busy.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) * 2 {
            let over = Arc::clone(&over);
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
        }
        Self(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Serialize, Deserialize)]
struct Other(Deed);
impl Task for Other {
    const NAME: &'static str = "other";
    type Output = Vec<u8>;
}

/// A few polls, none of them long.
async fn well_behaved() -> Result<Vec<u8>, Failure> {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    Ok(Vec::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_task_of_twenty_that_blocks_is_named_and_the_others_are_not() {
    let mut registry = Registry::default();
    registry.on_async(async |_: Other, _| well_behaved().await, TaskOptions::default());
    registry.on_async(
        async |_: OnAsync, _| {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(200));
            Ok(Vec::new())
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    let mut runs = tokio::task::JoinSet::new();
    for n in 0..20 {
        let executors = Arc::clone(&executors);
        let task = if n == 13 { "on-async" } else { "other" };
        runs.spawn(async move { (task, executors.run(deed(task, Deed::Sleep)).await) });
    }
    while let Some(Ok((task, ran))) = runs.join_next().await {
        assert!(matches!(ran.outcome, Outcome::Succeeded(_)), "{ran:?}");
        let blocked = ran.blocked.unwrap();
        if task == "on-async" {
            assert!(blocked >= Duration::from_millis(190), "{blocked:?}");
            // It slept.
            assert!(ran.cpu.unwrap() < Duration::from_millis(50), "{ran:?}");
        } else {
            assert!(blocked < limits::BLOCK_LIMIT, "{blocked:?}");
        }
    }
    let (count, newest) = executors.dog().unwrap().long_polls();
    assert_eq!((count, newest.len()), (1, 1), "{newest:?}");
    assert_eq!(newest[0].task.as_str(), "on-async");
    assert!(newest[0].micros >= 190_000 && !newest[0].lasts, "{newest:?}");
    let lag = executors.dog().unwrap().lag();
    assert!(lag.is_some_and(|lag| lag.p50 <= lag.p99), "{lag:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_good_jobs_beside_busy_cores_are_no_alarm() {
    if !meter::knows_the_scheduler() {
        println!("no schedstat here: a busy machine counts as the task's");
        return;
    }
    let mut registry = Registry::default();
    registry.on_async(
        async |job: Other, _| {
            // Some work for so long that they are surely descheduled in the middle, all below the limit.
            let work = if job.0 == Deed::Sleep { 300 } else { 30_000 };
            let until = meter::cpu_time() + Duration::from_micros(work);
            while meter::cpu_time() < until {}
            well_behaved().await
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    let busy = Busy::new();
    let mut runs = tokio::task::JoinSet::new();
    let mut longest = Duration::ZERO;
    for n in 0..10_000 {
        let executors = Arc::clone(&executors);
        let what = if n % 500 == 0 { Deed::Pid } else { Deed::Sleep };
        runs.spawn(async move { executors.run(deed("other", what)).await });
        if n >= 50 {
            longest = longest.max(runs.join_next().await.unwrap().unwrap().blocked.unwrap());
        }
    }
    while let Some(ran) = runs.join_next().await {
        longest = longest.max(ran.unwrap().blocked.unwrap());
    }
    drop(busy);
    println!("the longest poll: {longest:?}");
    assert_eq!(executors.dog().unwrap().long_polls(), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_does_not_end_is_seen_while_it_lasts_and_what_others_wait_is_told() {
    let mut registry = Registry::default();
    registry.on_async(
        async |_: OnAsync, cx: Context| {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Vec::new())
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    // Every thread of the executor.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = tokio::task::JoinSet::new();
    let mut stops = Vec::new();
    for _ in 0..cores {
        let (executors, run) = (Arc::clone(&executors), deed("on-async", Deed::Sleep));
        stops.push(run.stop.clone());
        runs.spawn(async move { executors.run(run).await });
    }
    let dog = executors.dog().unwrap();
    let last = |all: &[millhand_broker::LongPoll]| all.iter().filter(|poll| poll.lasts).count();
    while last(&dog.long_polls().1) < cores {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Still held: what waits for a thread now is seen to wait.
    while dog.lag().is_none_or(|lag| lag.p99 < 300_000) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stops.iter().for_each(|stop| stop.soft_limit(Duration::from_secs(1)));
    while runs.join_next().await.is_some() {}
    let (count, newest) = dog.long_polls();
    assert_eq!(
        (count, last(&newest)),
        (cores as u64, 0),
        "each is told of once: {newest:?}"
    );
    assert!(newest.iter().any(|poll| poll.others >= 200_000), "{newest:?}");
    assert!(dog.is_idle());
}

#[tokio::test]
async fn a_soft_limit_asks_and_an_error_after_it_is_a_timeout() {
    let mut registry = registry();
    registry.on_async(
        async |_: Other, cx: Context| {
            cx.cancelled().await;
            Err(Failure::new("stopped half way"))
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 1, limits::BLOCK_LIMIT);
    let soft = Duration::from_millis(50);
    for (task, what) in [("other", Deed::Sleep), ("on-thread", Deed::SpinUntilCancelled)] {
        let run = Run {
            soft: Some(soft),
            ..deed(task, what)
        };
        assert_eq!(executors.run(run).await.outcome, Outcome::TimedOut(soft), "{task}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_ignores_its_cancel_is_leaked_until_it_ends() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let mut registry = Registry::default();
    let handler = move |_: OnThread, _| {
        while !open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(vec![1])
    };
    registry.on_thread(
        handler,
        TaskOptions {
            slots: Some(2),
            ..TaskOptions::default()
        },
    );
    let executors = looked_after(registry, 3, limits::BLOCK_LIMIT);
    let mut leaked = executors.leaked();
    let run = deed("on-thread", Deed::Sleep);
    let stop = run.stop.clone();
    let running = tokio::spawn({
        let executors = Arc::clone(&executors);
        async move { executors.run(run).await }
    });
    tokio::time::sleep(limits::LEAK_AFTER * 3).await;
    assert_eq!(*leaked.borrow(), 0, "nobody asked it to end");
    let asked = tokio::time::Instant::now();
    stop.cancel();
    leaked.changed().await.unwrap();
    assert_eq!(*leaked.borrow_and_update(), 2, "it took two slots");
    assert!(asked.elapsed() >= limits::LEAK_AFTER);
    assert!(!running.is_finished(), "nothing is said of it before it ends");
    gate.store(true, Ordering::SeqCst);
    let ran = running.await.unwrap();
    assert!(matches!(ran.outcome, Outcome::Succeeded(_)), "{ran:?}");
    assert_eq!(*leaked.borrow(), 0);
}

async fn stopped_all(executors: Arc<Executors>) {
    match Arc::try_unwrap(executors) {
        Ok(executors) => executors.stop().await,
        Err(_) => panic!("somebody still runs"),
    }
}

fn cause(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Crashed { cause, .. } => cause.code(),
        other => panic!("{other:?} is no crash"),
    }
}

/// Executors whose children can be told from those of other tests, by this word among their arguments.
fn marked(word: &str, most: usize, recycle: Recycle) -> Executors {
    let mut executors = executors();
    let args = ["--exact", "executors::tests::child_main", "--nocapture", "--skip", word];
    let command = processes::ChildCommand {
        args: args.map(OsString::from).to_vec(),
        ..processes::ChildCommand::this_program().unwrap()
    };
    executors.processes = processes::Processes::new(command, most, recycle);
    executors
}

/// The processes of those that live.
fn marked_children(word: &str) -> Vec<u32> {
    let marked = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    tree::descendants(std::process::id())
        .into_iter()
        .filter(marked)
        .collect()
}

#[tokio::test]
async fn every_way_to_break_a_child_is_told_apart_and_costs_nobody_else_anything() {
    let executors = marked("break", 2, Recycle::default());
    let run_one = async |run| executors.run(run).await;
    assert_eq!(number(run_one(deed("on-process", Deed::Add(1))).await.outcome), 2);
    for (what, code) in [
        (Deed::ExitWell, "exit_0"),
        (Deed::Exit, "exit_3"),
        (Deed::Segfault, "SIGSEGV"),
        (Deed::Abort, "SIGABRT"),
        (Deed::Garbage, "protocol"),
    ] {
        // A neighbour runs meanwhile, and is not disturbed.
        let neighbour = run_one(deed("on-process", Deed::SpinUntilCancelled));
        let stop = CancellationToken::new();
        let broken = async {
            let ran = run_one(deed("on-process", what)).await;
            stop.cancel();
            ran
        };
        let neighbour = async {
            tokio::select! {
                ended = neighbour => panic!("{what:?} ended its neighbour: {ended:?}"),
                () = stop.cancelled() => {}
            }
        };
        let (ran, ()) = tokio::join!(broken, neighbour);
        assert_eq!(cause(&ran.outcome), code, "{what:?}");
    }
    let limit = 64 << 20;
    let hungry = Run {
        memory: Some(limit),
        ..deed("on-process", Deed::Swallow)
    };
    let ran = run_one(hungry).await;
    assert_eq!(cause(&ran.outcome), "memory_limit");
    assert!(text(&ran.outcome).contains("may hold 64.0 MiB"), "{ran:?}");
    assert!(ran.peak.unwrap() > limit, "{ran:?}");
    println!("overshoot: {} MiB", (ran.peak.unwrap() - limit) >> 20);
    executors.stop().await;
    assert!(marked_children("break").is_empty());
}

#[tokio::test]
async fn what_a_job_prints_is_its_log_bounded_and_what_it_leaves_behind_ends_with_it() {
    let executors = marked("print", 2, Recycle::default());
    let print = deed("on-process", Deed::Print);
    let log = print.log.clone();
    assert!(matches!(executors.run(print).await.outcome, Outcome::Succeeded(_)));
    let kept = log.take(1).unwrap().len();
    assert!(kept > limits::LOG_BYTES / 2 && kept <= 2 * limits::LOG_BYTES, "{kept}");

    let orphan = deed("on-process", Deed::Orphan);
    let log = orphan.log.clone();
    let left = number(executors.run(orphan).await.outcome);
    let said = String::from_utf8_lossy(&log.take(1).unwrap()).into_owned();
    assert!(said.contains("left 1 process(es) behind"), "{said}");
    executors.stop().await;
    // Who takes in orphans may be slow to bury them; the dead hold nothing.
    while tree::resident(left).is_some_and(|held| held > 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(marked_children("print").is_empty());
}

#[tokio::test]
async fn at_the_soft_limit_a_job_is_asked_and_at_the_hard_one_killed() {
    let executors = executors();
    let soft = Duration::from_millis(100);
    for task in ["on-process", "on-thread"] {
        let asked = Run {
            soft: Some(soft),
            ..deed(task, Deed::SpinUntilCancelled)
        };
        assert_eq!(executors.run(asked).await.outcome, Outcome::TimedOut(soft), "{task}");
    }
    let hard = Duration::from_millis(300);
    for task in ["on-process", "deaf"] {
        let deaf = Run {
            soft: Some(soft),
            hard: Some(hard),
            ..deed(task, Deed::Sleep)
        };
        assert_eq!(executors.run(deaf).await.outcome, Outcome::TimedOut(hard), "{task}");
    }
    executors.stop().await;
}

#[tokio::test]
async fn a_child_is_replaced_after_its_jobs_by_one_that_was_started_before() {
    let recycle = Recycle {
        jobs: Some(20),
        memory: None,
    };
    let executors = marked("replace", 1, recycle);
    let mut pids = Vec::new();
    let mut waited = 0;
    while pids.len() < 4 {
        let ran = executors.run(deed("on-process", Deed::Pid)).await;
        waited += usize::from(ran.start.is_some());
        let pid = number(ran.outcome);
        if pids.last() != Some(&pid) {
            assert!(!pids.contains(&pid), "an old child came back");
            pids.push(pid);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(waited, 1, "only the first job waited for a start");
    executors.stop().await;
}

#[tokio::test]
async fn many_small_jobs_share_few_children_and_each_gets_its_own_answer() {
    let executors = Arc::new(executors());
    let mut runs = tokio::task::JoinSet::new();
    let mut pids = std::collections::HashSet::new();
    for n in 0..3000_u32 {
        let executors = Arc::clone(&executors);
        runs.spawn(async move {
            let what = if n % 3 == 0 { Deed::Pid } else { Deed::Add(n) };
            let run = Run {
                job: JobId::given(&n.to_string()),
                ..deed("on-process", what)
            };
            (n, number(executors.run(run).await.outcome))
        });
        if n >= 100 {
            let (n, got) = runs.join_next().await.unwrap().unwrap();
            if n % 3 == 0 {
                pids.insert(got);
            } else {
                assert_eq!(got, n + 1);
            }
        }
    }
    while let Some(ran) = runs.join_next().await {
        let (n, got) = ran.unwrap();
        assert!(n % 3 == 0 || got == n + 1);
    }
    assert!(pids.len() <= 3, "{pids:?}: two children and a spare");
    stopped_all(executors).await;
}

#[tokio::test]
async fn children_killed_at_any_moment_lose_and_hang_nothing() {
    let kills = if std::env::var_os("MILLHAND_LONG").is_some() {
        1000
    } else {
        40
    };
    let executors = Arc::new(marked("kill", 2, Recycle::default()));
    let mut seed = crate::crew::random();
    println!("seed {seed}");
    let (mut crashed, mut ended) = (0, 0);
    for _ in 0..kills {
        let mut runs = tokio::task::JoinSet::new();
        for n in 0..8_u32 {
            let executors = Arc::clone(&executors);
            runs.spawn(async move {
                let run = Run {
                    job: JobId::given(&n.to_string()),
                    ..deed("on-process", Deed::Add(n))
                };
                (n, executors.run(run).await.outcome)
            });
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = Duration::from_micros((seed >> 33) % 3000);
        tokio::time::sleep(moment).await;
        if let Some(child) = marked_children("kill").first() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*child).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        while let Some(ran) = runs.join_next().await {
            match ran.unwrap() {
                (n, outcome @ Outcome::Succeeded(_)) => assert_eq!(number(outcome), n + 1),
                (_, Outcome::Crashed { cause, .. }) => {
                    assert_eq!(cause.code(), "SIGKILL");
                    crashed += 1;
                }
                // A child that was killed while it started.
                (_, outcome @ Outcome::Failed { .. }) => {
                    assert!(
                        text(&outcome).contains("no child process could be started"),
                        "{outcome:?}"
                    );
                }
                other => panic!("{other:?}"),
            }
            ended += 1;
        }
    }
    println!("{ended} jobs, {crashed} crashed");
    assert_eq!(ended, kills * 8);
    stopped_all(executors).await;
    assert!(marked_children("kill").is_empty());
}

#[tokio::test]
async fn big_arguments_reach_a_child_beside_its_socket() {
    let executors = executors();
    for bytes in [300_usize << 10, 15 << 20, 64 << 20] {
        // Not what the task takes, which the child can only say after it has read all of it.
        let args = Payload::encode(&"x".repeat(bytes)).unwrap();
        let refused = executors.run(run("on-process", args)).await.outcome;
        assert!(
            matches!(&refused, Outcome::Fatal { reason, .. } if reason == "bad_arguments"),
            "{refused:?}"
        );
    }
    executors.stop().await;
}
