//! Commands as tasks.

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
