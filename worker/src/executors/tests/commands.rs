//! Commands as tasks.

use millhand_proto::{AttemptLog, LogSource};

use super::*;

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

/// What the log of a run has, after it ended.
fn logged(log: &JobLog) -> Vec<(LogSource, String)> {
    let lines = log.take(1).map(|bytes| AttemptLog::decode(&bytes).unwrap().lines);
    let lines = lines.into_iter().flatten();
    lines.map(|line| (line.source, line.text)).collect()
}

#[tokio::test]
async fn what_a_command_printed_is_in_its_log_when_it_is_no_result() {
    let executors = executors();
    let out = |text: &str| vec![(LogSource::Out, text.to_owned())];
    let fails = run("fails-after-step", Payload::json("1").unwrap());
    let log = fails.log.clone();
    assert_eq!(text(&executors.run(fails).await.outcome), "exit code 3");
    assert_eq!(logged(&log), out("step 1"));

    let limit = Duration::from_secs(2);
    let slow = Run {
        hard: Some(limit),
        ..run("sleeps-after-step", Payload::json("1").unwrap())
    };
    let log = slow.log.clone();
    assert_eq!(
        executors.run(slow).await.outcome,
        Outcome::TimedOut(TimeLimit::Hard(limit))
    );
    assert_eq!(logged(&log), out("step 1"));

    let well = run("text", Payload::json("1").unwrap());
    let log = well.log.clone();
    assert!(matches!(executors.run(well).await.outcome, Outcome::Succeeded(_)));
    assert_eq!(logged(&log), [], "a result is not printed twice");
}

#[tokio::test]
async fn a_result_that_is_too_big_is_refused_and_its_end_is_in_the_log() {
    let executors = executors();
    let prints = run("prints", Payload::json("1").unwrap());
    let log = prints.log.clone();
    let refused = executors.run(prints).await.outcome;
    assert!(
        matches!(&refused, Outcome::Fatal { reason, .. } if reason == "result_too_big"),
        "{refused:?}"
    );
    assert_eq!(text(&refused), "the result has more than 1048576 bytes");
    // One line of 30 MB, cut.
    let logged = logged(&log);
    let [(LogSource::Out, line)] = logged.as_slice() else {
        panic!("not from standard output");
    };
    assert!(
        line.len() <= limits::LOG_LINE_BYTES && line.starts_with("777"),
        "{}",
        line.len()
    );
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_told() {
    let executors = executors();
    let leaves = run("leaves", Payload::json("1").unwrap());
    let log = leaves.log.clone();
    assert!(matches!(executors.run(leaves).await.outcome, Outcome::Succeeded(_)));
    let said = "it left 1 process(es) behind, which were ended".to_owned();
    assert_eq!(logged(&log), [(LogSource::Said, said)]);
}
