//! The short forms of the scenarios that are run every day pass, and the checker sees what is wrong.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

fn faults(words: &[&str]) -> (bool, Vec<Value>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_millhand-faults"))
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    (output.status.success(), lines, errors)
}

#[test]
fn a_process_that_is_killed_at_any_step_loses_nothing() {
    let (passed, lines, errors) = faults(&["run", "F02", "--short", "--seed", "7"]);
    for line in &lines {
        println!("{line}");
    }
    assert!(passed, "{errors}");
    // 11 points of a fleet, 8 of SQLite.
    assert_eq!(lines.len(), 19);
    for line in &lines {
        assert_eq!(
            (&line["kills"], &line["lost"], &line["stuck"]),
            (&json!(1), &json!(0), &json!(0)),
            "{line}"
        );
        let point = line["plan"].as_str().unwrap();
        if point.starts_with("settle.") {
            assert_eq!(line["kills_that_hit_running_jobs"], 1, "{line}");
        }
    }
}

#[test]
fn workers_die_or_stand_still_and_the_store_forgets_and_nothing_is_lost() {
    for scenario in ["F01", "F03", "F33"] {
        let (passed, lines, errors) = faults(&["run", scenario, "--short", "--seed", "7"]);
        for line in &lines {
            println!("{line}");
        }
        assert!(passed && !lines.is_empty(), "{scenario}: {errors}");
        let harmed = |line: &Value| line["kills_that_hit_running_jobs"] != 0 || line["flushes"] != 0;
        assert!(lines.iter().all(harmed), "{scenario}");
    }
}

/// Runs the short forms of these; each must pass.
fn pass(names: &[&str]) {
    let (passed, lines, errors) = faults(&[&["run"], names, &["--short", "--seed", "7"]].concat());
    for line in &lines {
        println!("{line}");
    }
    assert!(passed, "{errors}");
    for name in names {
        assert!(lines.iter().any(|line| line["scenario"] == *name), "{name}");
    }
}

#[test]
fn workers_stop_are_poisoned_and_share_a_file_that_is_harmed() {
    pass(&["F04", "F42", "F52"]);
}

#[test]
fn children_crash_parcels_come_twice_or_make_no_sense_and_jobs_are_cancelled() {
    pass(&["F07", "F11", "F12", "F40", "F41", "F50"]);
}

#[test]
fn a_queue_that_confirms_nothing_holds_up_only_what_needs_it() {
    pass(&["R03"]);
}

#[test]
fn an_unknown_scenario_or_crash_point_is_refused() {
    let (passed, _, errors) = faults(&["run", "F99"]);
    assert!(!passed && errors.contains("there is no scenario F99"), "{errors}");
    let (passed, _, errors) = faults(&["run", "F13", "--on", "sqlite"]);
    assert!(!passed && errors.contains("F13 has no run on sqlite"), "{errors}");
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
    let mut produce = Command::new(env!("CARGO_BIN_EXE_millhand-faults"));
    produce
        .arg("produce")
        .args([&url, &url])
        .arg(folder.path())
        .args(["1", "[\"succeed\"]", "7"]);
    produce.env("MILLHAND_CRASH", "settle.nowhere");
    // Its standard input stays open: with its end the process would end.
    let mut produce = produce.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _input = produce.stdin.take();
    let output = produce.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no crash point"));
}

/// Judges a run in which one job of a kind, `n` 3, was accepted.
fn judge(kind: &str, ran: &[(&str, u64)], found: &[(&str, Value)], kills: &[u64]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: Vec<Value>| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write(
        "produced.jsonl",
        vec![
            json!({"what": "attempt", "id": "a", "kind": kind, "n": 3}),
            json!({"what": "ok", "id": "a"}),
        ],
    );
    let ran = ran
        .iter()
        .map(|(what, pid)| json!({"what": what, "id": "a", "pid": pid, "attempt": 1}));
    write("ran.jsonl", ran.collect());
    write(
        "done.jsonl",
        kills.iter().map(|pid| json!({"what": "kill", "pid": pid})).collect(),
    );
    let found = found
        .iter()
        .map(|(state, result)| json!({"what": "job", "id": "a", "state": state, "result": result, "fence": result.as_u64().map(|_| [0, 1])}));
    write("found.jsonl", found.collect());
    verdict(folder.path())
}

fn verdict(folder: &Path) -> String {
    let (_, lines, errors) = faults(&["check", folder.to_str().unwrap()]);
    assert_eq!(lines.len(), 1, "{errors}");
    lines[0]["wrong"].to_string()
}

#[test]
fn the_checker_sees_what_is_wrong_and_nothing_else() {
    let (once, twice) = ([("start", 7), ("end", 7)], [("start", 7), ("start", 8), ("end", 8)]);
    let good = [("succeeded", json!(9))];
    assert_eq!(judge("succeed", &once, &good, &[]), "[]");
    assert_eq!(
        judge("succeed", &twice, &good, &[7]),
        "[]",
        "a kill explains a second start"
    );
    assert_eq!(judge("retry", &twice, &good, &[]), "[]");
    assert_eq!(judge("die", &once[..1], &[("dead", Value::Null)], &[]), "[]");

    let wrong = |what: &str, verdict: String| assert!(verdict.contains(what), "{what}: {verdict}");
    wrong("I1: it was accepted and never started", judge("succeed", &[], &[], &[]));
    wrong("I1, I3", judge("succeed", &once, &[("running", Value::Null)], &[]));
    wrong(
        "I3: it ended as",
        judge("succeed", &once, &[good[0].clone(), ("dead", Value::Null)], &[]),
    );
    wrong(
        "I3: its result",
        judge("succeed", &once, &[("succeeded", json!(8))], &[]),
    );
    wrong(
        "I3: its result",
        judge("succeed", &once, &[("succeeded", Value::Null)], &[]),
    );
    wrong("I4", judge("succeed", &twice, &good, &[]));
    wrong("I4", judge("succeed", &twice, &good, &[99]));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("ran.jsonl"),
        "{\"what\": \"start\", \"id\": \"x\", \"pid\": 1}\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("found.jsonl"),
        "{\"what\": \"left\", \"of\": \"3 messages\"}\n{\"what\": \"orphan\", \"of\": \"7: sleep\"}\n",
    )
    .unwrap();
    let verdict = verdict(folder.path());
    wrong("I2", verdict.clone());
    wrong("I10: it lives on: \\\"7: sleep", verdict.clone());
    wrong("I8: left behind: \\\"3 messages", verdict);
}

#[test]
fn a_kill_hits_what_runs_at_that_moment_and_the_next_start_is_timed_from_it() {
    let at = 10_000;
    let judge = |ran: &[(&str, u64, u64)]| {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, lines: &[Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        let produced = ["attempt", "ok"].map(|what| json!({"what": what, "id": "a", "kind": "retry", "n": 3}));
        write("produced.jsonl", &produced);
        let line = |(what, pid, at): &(&str, u64, u64)| json!({"what": what, "id": "a", "pid": pid, "at": at});
        write("ran.jsonl", &ran.iter().map(line).collect::<Vec<_>>());
        write("done.jsonl", &[json!({"what": "kill", "pid": 7, "at": at})]);
        let (_, lines, errors) = faults(&["check", folder.path().to_str().unwrap()]);
        assert_eq!(lines.len(), 1, "{errors}");
        ["kills_that_hit_running_jobs", "t_run_again"].map(|name| lines[0][name].as_u64())
    };
    let again = ("start", 8, at + 30);
    assert_eq!(judge(&[("start", 7, 9000), again]), [Some(1), Some(30)]);
    let twice = [("start", 7, 5000), ("failed", 7, 6000), ("start", 7, 9000), again];
    assert_eq!(judge(&twice), [Some(1), Some(30)]);
    assert_eq!(
        judge(&[twice[0], twice[1], again]),
        [Some(0), None],
        "it waits for its retry"
    );
    let settles = [("start", 7, 5000), ("end", 7, at - 10), again];
    assert_eq!(judge(&settles), [Some(1), None], "its end may not be written");
    assert_eq!(
        judge(&[("start", 6, 5000), again]),
        [Some(0), None],
        "another process ran it"
    );
    assert_eq!(judge(&[("start", 7, 9000)]), [Some(1), None]);
}
