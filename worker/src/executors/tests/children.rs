//! Warm children: kept, broken in every way, replaced.

use tokio_util::sync::CancellationToken;

use super::*;

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
        let ran = executors.run(deed("on-process", what)).await;
        assert!(ran.dispatch >= ran.start.unwrap_or_default(), "{what:?} {ran:?}");
        let crashed = ran.outcome;
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
async fn what_a_job_of_no_time_leaves_behind_ends_soon_after_it() {
    let executors = executors();
    for _ in 0..10 {
        let left = number(executors.run(deed("on-process", Deed::QuickOrphan)).await.outcome);
        let ended = Instant::now();
        while tree::resident(left).is_some_and(|held| held > 0) {
            assert!(ended.elapsed() < Duration::from_secs(20), "it is still there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    executors.stop().await;
}

#[tokio::test]
async fn at_the_soft_limit_a_job_is_asked_and_at_the_hard_one_killed() {
    let executors = executors();
    let soft = Duration::from_millis(100);
    for task in ["on-process", "on-thread", "sleeps"] {
        let asked = Run {
            soft: Some(soft),
            ..deed(task, Deed::SpinUntilCancelled)
        };
        ended_at_soft(&executors, asked).await;
    }
    let hard = Duration::from_millis(300);
    for task in ["on-process", "deaf"] {
        let deaf = Run {
            soft: Some(soft),
            hard: Some(hard),
            ..deed(task, Deed::Sleep)
        };
        assert_eq!(
            executors.run(deaf).await.outcome,
            Outcome::TimedOut(TimeLimit::Hard(hard)),
            "{task}"
        );
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
async fn a_child_that_grows_is_replaced_also_when_its_jobs_are_short() {
    let recycle = Recycle {
        memory: Some(64 << 20),
        ..Recycle::default()
    };
    let executors = marked("grow", 1, recycle);
    let first = number(executors.run(deed("on-process", Deed::Leak)).await.outcome);
    let mut jobs = 0;
    while number(executors.run(deed("on-process", Deed::Leak)).await.outcome) == first {
        tokio::time::sleep(Duration::from_millis(10)).await;
        jobs += 1;
        assert!(jobs < 200, "{jobs} jobs, each of which leaves 4 MiB");
    }
    executors.stop().await;
}

#[tokio::test]
async fn a_child_that_never_stops_speaking_is_ended_and_keeps_nobody_waiting() {
    let executors = executors();
    let limit = Duration::from_millis(500);
    for what in [Deed::FloodLines, Deed::FloodFrames] {
        let flood = Run {
            hard: Some(limit),
            ..deed("on-process", what)
        };
        let mut longest = Duration::ZERO;
        let others = async {
            loop {
                let since = Instant::now();
                tokio::time::sleep(Duration::from_millis(1)).await;
                longest = longest.max(since.elapsed());
            }
        };
        let flooded = tokio::select! {
            ran = executors.run(flood) => ran.outcome,
            () = others => unreachable!("they never end"),
        };
        println!("others waited {longest:?} at the most");
        assert_eq!(flooded, Outcome::TimedOut(TimeLimit::Hard(limit)), "{what:?}");
        assert!(longest < Duration::from_secs(2), "{what:?}: others waited {longest:?}");
        let cancelled = stopped(&executors, deed("on-process", what), Stop::cancel).await;
        assert_eq!(cancelled, Outcome::Cancelled, "{what:?}");
    }
    executors.stop().await;
}

#[tokio::test]
async fn a_word_after_the_answer_is_nobodys() {
    let executors = marked("late", 1, Recycle::default());
    let ended = async |name: &str, what| {
        let run = Run {
            job: JobId::given(name),
            ..deed("on-process", what)
        };
        let log = run.log.clone();
        let outcome = executors.run(run).await.outcome;
        assert!(matches!(outcome, Outcome::Succeeded(_)), "{name}: {outcome:?}");
        log
    };
    // The child drops it; the worker drops what another program's child may say of the job before.
    ended("speaks late", Deed::LateWord).await;
    ended("in between", Deed::Pid).await;
    let heard = ended("meanwhile", Deed::Nap).await;
    assert!(heard.take(1).is_none());
    ended("sends late", Deed::LateFrame).await;
    let heard = ended("meanwhile too", Deed::Nap).await;
    assert!(heard.take(1).is_none());
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
    for bytes in [2_usize << 20, 15 << 20, 64 << 20] {
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
