//! The program from outside: exit codes, what stands where, and two terminals at work.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use millhand_proto::{Count, Executor, QueueName, Receipt, Tally, TaskName};

use crate::place::{Place, json, signal, text, until};

#[test]
fn two_terminals_count_words() {
    let place = Place::new();
    let _worker = place.worker();
    let (out, err) = place.expect(0, &["enqueue", "wordcount", "--args", "\"a b c\"", "--wait"]);
    assert_eq!((out.trim(), err.as_str()), ("3", ""));
    let mut command = place.command(&["enqueue", "wordcount", "--args", "-", "--wait"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"[\"d e\",\n\"f\"]").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout).trim(), "3");
    std::fs::write(place.path().join("args.json"), "\"one two\"").unwrap();
    let (out, _) = place.expect(0, &["enqueue", "wordcount", "--args-file", "args.json", "--wait"]);
    assert_eq!(out.trim(), "2");
}

#[test]
fn a_job_that_does_not_succeed_is_100_and_says_why() {
    let place = Place::new();
    let _worker = place.worker();
    let (out, err) = place.expect(100, &["enqueue", "fail", "--id", "mine", "--wait"]);
    assert_eq!(out, "");
    assert!(
        err.contains("dead after 1 attempt") && err.contains("it broke"),
        "{err}"
    );
    place.expect(100, &["job", "wait", "mine"]);
    let (out, _) = place.expect(0, &["job", "show", "mine"]);
    assert!(out.contains("✗ dead  fail") && out.contains("it broke"), "{out}");
    let shown = json(&place.expect(0, &["job", "show", "mine", "--json"]).0);
    assert_eq!(shown["schema"], "millhand.job/1");
    assert_eq!(shown["job"]["state"], "dead");
    let log = json(&place.expect(0, &["job", "log", "mine", "--json"]).0);
    assert_eq!(log["schema"], "millhand.job.log/1");
    place.expect(3, &["job", "log", "another"]);
    // Some can be retried, one cannot.
    let waiting = place.expect(0, &["enqueue", "wordcount", "--delay", "1h"]).0;
    place.expect(6, &["job", "retry", "mine", waiting.trim()]);
    let (_, err) = place.expect(2, &["job", "retry", "--state", "scheduled", "--dry-run"]);
    assert!(err.contains("it is for dead"), "{err}");
    place.expect(1, &["job", "retry", waiting.trim()]);
}

#[test]
fn the_time_is_up_at_124_and_the_job_goes_on() {
    let place = Place::new();
    let (_, err) = place.expect(
        124,
        &["enqueue", "slow", "--id", "s", "--wait", "--wait-timeout", "200ms"],
    );
    assert!(err.contains("job wait"), "{err}");
    place.expect(124, &["job", "wait", "s", "--timeout", "200ms"]);
    let listed = json(&place.expect(0, &["job", "list", "--state", "queued", "-o", "json"]).0);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[test]
fn usage_and_settings_are_2() {
    let place = Place::new();
    for args in [
        &["fly"][..],
        &["job", "list", "--state", "ded"],
        &["job", "cancel"],
        &["enqueue", "wordcount", "--args", "{"],
        &["enqueue", "wordcount", "--args-file", "missing.json"],
        &["enqueue", "wordcount", "--delay", "tomorrow"],
        &["enqueue", "wordcount", "--delay", "400d"],
        &["enqueue", "wordcount", "--expires", "1s", "--delay", "2s"],
        &["enqueue", "wordcount", "--broker", "memory:"],
        &["enqueue", "wordcount", "--broker", "amqp://h/"],
        &["worker", "--config", "missing.toml"],
        &["worker", "--check", "--store", "sqlite:other.db"],
    ] {
        let (out, err) = place.expect(2, args);
        assert_eq!(out, "", "{args:?}");
        assert!(err.starts_with("error: "), "{args:?}: {err}");
    }
    assert!(
        !place.path().join("millhand.db").exists(),
        "a refused command makes no file"
    );
    place.expect(0, &["worker", "--check"]);
    assert!(!place.path().join("millhand.db").exists(), "a check makes no file");
    let check = place
        .command(&["worker", "--check"])
        .env("MILLHAND_WORKER__PROCESES", "2")
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(2));
    assert!(text(&check.stderr).contains("did you mean MILLHAND_WORKER__PROCESSES?"));
}

#[test]
fn what_is_wrong_is_said_as_json_where_json_was_asked_for() {
    let place = Place::new();
    for args in [
        &["job", "list", "--state", "foo", "--json"][..],
        &["job", "list", "-o", "jsonl", "--nonsense"],
        &["enqueue", "wordcount", "--args", "{", "-ojson"],
    ] {
        let (out, err) = place.expect(2, args);
        assert_eq!(out, "");
        assert!(json(&err)["error"]["message"].is_string(), "{err}");
    }
    let deep = "[".repeat(65) + &"]".repeat(65);
    let (_, err) = place.expect(2, &["enqueue", "wordcount", "--args", &deep]);
    assert!(err.contains("deeper than 64 levels"), "{err}");
}

#[test]
fn a_check_looks_at_a_file_that_is_there_and_makes_none() {
    let place = Place::new();
    place.expect(0, &["worker", "--check"]);
    assert!(!place.path().join("millhand.db").exists());
    std::fs::write(
        place.path().join("millhand.db"),
        "this is text, not a database, and long enough",
    )
    .unwrap();
    let (_, err) = place.expect(5, &["worker", "--check"]);
    assert!(err.contains("not a SQLite database"), "{err}");
}

#[test]
fn too_big_arguments_name_limit_and_sizes() {
    let place = Place::new();
    std::fs::write(place.path().join("big.json"), format!("\"{}\"", "x".repeat(1 << 20))).unwrap();
    let (_, err) = place.expect(2, &["enqueue", "wordcount", "--args-file", "big.json"]);
    assert!(
        err.contains("1048578 bytes") && err.contains("\"arguments\" is 1048576"),
        "{err}"
    );
}

#[test]
fn nothing_there_is_3_and_a_missing_or_foreign_file_is_5() {
    let place = Place::new();
    place.expect(5, &["job", "list"]);
    place.expect(0, &["enqueue", "wordcount"]);
    let (_, err) = place.expect(3, &["job", "show", "nobody", "--json"]);
    assert_eq!(json(&err)["error"]["code"], "no_such_job");
    place.expect(3, &["job", "wait", "nobody"]);
    place.expect(3, &["job", "retry", "--state", "dead", "--yes"]);
    place.expect(3, &["job", "cancel", "nobody"]);
    place.expect(3, &["queue", "purge", "empty", "--yes"]);
    std::fs::write(
        place.path().join("foreign.db"),
        "this is no database, but long enough to be looked at",
    )
    .unwrap();
    place.expect(5, &["job", "list", "--broker", "sqlite:foreign.db"]);
}

#[test]
fn acts_by_filter_are_confirmed_counted_and_tried_dry() {
    let place = Place::new();
    for _ in 0..3 {
        place.expect(0, &["enqueue", "wordcount"]);
    }
    let (_, err) = place.expect(7, &["job", "cancel", "--task", "wordcount"]);
    assert!(err.contains("Cancel 3 jobs") && err.contains("--yes"), "{err}");
    place.expect(7, &["job", "cancel", "--task", "wordcount", "--yes", "--expect", "4"]);
    place.expect(0, &["job", "cancel", "--task", "wordcount", "--dry-run"]);
    place.expect(7, &["queue", "purge", "default"]);
    let (out, _) = place.expect(
        0,
        &[
            "job",
            "cancel",
            "--task",
            "wordcount",
            "--yes",
            "--expect",
            "3",
            "--json",
        ],
    );
    assert_eq!(json(&out)["done"], 3);
    let (out, _) = place.expect(0, &["job", "drop", "--state", "cancelled", "--yes", "-o", "jsonl"]);
    assert_eq!(
        out.lines().map(json).filter(|item| item["outcome"] == "done").count(),
        3
    );
    place.expect(0, &["enqueue", "wordcount"]);
    place.expect(0, &["queue", "pause", "default"]);
    let queues = json(&place.expect(0, &["queue", "list", "--json"]).0);
    assert!(queues["items"][0]["paused_since"].is_string());
    let (out, _) = place.expect(0, &["queue", "purge", "default", "--yes", "--json"]);
    assert_eq!(json(&out)["purged"], 1);
    place.expect(0, &["queue", "resume", "default"]);
}

#[test]
fn a_pause_of_a_queue_that_nobody_knows_is_noted() {
    let place = Place::new();
    place.expect(0, &["enqueue", "wordcount", "--queue", "known"]);
    let (_, err) = place.expect(0, &["queue", "pause", "known"]);
    assert_eq!(err, "queue known is paused\n");
    let (_, err) = place.expect(0, &["queue", "pause", "knwon"]);
    assert!(
        err.contains("queue knwon is paused") && err.contains("no worker and no job of queue knwon is known"),
        "{err}"
    );
    // One whose jobs have all ended is known, and so is one that a worker takes.
    place.expect(0, &["queue", "purge", "known", "--yes"]);
    place.expect(0, &["queue", "resume", "known"]);
    let (_, err) = place.expect(0, &["queue", "pause", "known"]);
    assert_eq!(err, "queue known is paused\n");
    let _worker = place.worker();
    until("a worker", || {
        !json(&place.expect(0, &["worker", "list", "--json"]).0)["items"][0].is_null()
    });
    let (_, err) = place.expect(0, &["queue", "pause", "default"]);
    assert_eq!(err, "queue default is paused\n");
}

#[test]
fn slots_that_are_set_are_said_to_be_also_where_they_are_as_many_as_cores() {
    let place = Place::new();
    let settings = std::fs::read_to_string(place.path().join("millhand.toml")).unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    let check = |threads: &str| {
        let settings = settings.replace("threads = 1\n", threads);
        std::fs::write(place.path().join("millhand.toml"), settings).unwrap();
        place.expect(0, &["worker", "--check"]).1
    };
    let said = check(&format!("threads = {cores}\n"));
    assert!(said.contains(&format!("{cores} thread (set)")), "{said}");
    let said = check("");
    assert!(said.contains(&format!("{cores} thread (one per core")), "{said}");
}

#[test]
fn an_interrupt_is_130() {
    let place = Place::new();
    let args = ["enqueue", "slow", "--wait"];
    let child = place
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who waits has a mailbox.
    let mailboxes = place.path().join("millhand.db.workers");
    until("a mailbox", || {
        let mut files = std::fs::read_dir(&mailboxes).into_iter().flatten().flatten();
        files.any(|file| file.path().extension().is_some_and(|kind| kind == "waiter"))
    });
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
}

#[test]
fn data_alone_is_on_standard_output_and_pipes_have_no_colour() {
    let place = Place::new();
    place.expect(0, &["enqueue", "wordcount"]);
    for args in [
        &["job", "list"][..],
        &["queue", "list"],
        &["limits"],
        &["completion", "bash"],
        &["help", "json"],
    ] {
        let (out, _) = place.expect(0, args);
        assert!(!out.is_empty() && !out.contains('\x1b'), "{args:?}");
    }
    let (out, _) = place.expect(0, &["job", "list", "--color", "always"]);
    assert!(out.contains("\x1b["));
    let (out, _) = place.expect(0, &["limits", "--json"]);
    assert_eq!(json(&out)["schema"], "millhand.limits/1");
    let (out, _) = place.expect(0, &["help", "exit-codes"]);
    assert!(out.contains("124  the time is up"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    let mut child = place
        .command(&["limits"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

/// Writes what workers would have counted of 60 runs of 20 ms on a thread, `cpu` of them on a CPU.
fn ran(place: &Place, task: &str, cpu: u64) {
    let path = place.path().join("millhand.db").display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = millhand_broker::open(&format!("sqlite:{path}").parse().unwrap()).unwrap();
        let minute = Tally::minute_of(backend.now());
        let mut tally = Tally::new(minute, QueueName::default(), TaskName::new(task).unwrap());
        let receipt = Receipt {
            run: 20_000,
            cpu: Some(cpu),
            ..Receipt::default()
        };
        for _ in 0..60 {
            tally.numbers.count(Count::Succeeded);
            tally
                .numbers
                .record(Executor::Thread, &receipt, Duration::from_micros(100));
        }
        let split = tally.split().unwrap();
        backend.tally(cpu, vec![tally, split]).await.unwrap();
    });
}

#[test]
fn stats_and_advice_of_what_ran_and_of_what_did_not() {
    let place = Place::new();
    ran(&place, "computes", 19_900);
    for command in ["stats", "advise"] {
        let (out, err) = place.expect(3, &[command, "waits"]);
        assert_eq!(out, "");
        assert!(err.contains("task waits did not run in the last"), "{err}");
        place.expect(3, &[command, "--queue", "other"]);
    }
    place.expect(0, &["advise", "--strict"]);
    ran(&place, "waits", 200);
    let (out, _) = place.expect(0, &["stats"]);
    assert!(
        out.contains("computes") && out.contains("waits") && out.contains("19.5ms"),
        "{out}"
    );
    let (out, _) = place.expect(0, &["stats", "waits", "--queue", "default", "--since", "1d"]);
    assert!(out.contains("60 on thread") && out.contains("settle"), "{out}");
    let stats = json(&place.expect(0, &["stats", "--json"]).0);
    assert_eq!(
        (&stats["schema"], &stats["items"][0]["runs"]),
        (&"millhand.stats/1".into(), &60.into())
    );
    let (out, _) = place.expect(0, &["advise"]);
    assert!(
        out.contains("computes (on thread, 60 runs) is 100 % CPU and runs 19.5 ms: keep"),
        "{out}"
    );
    assert!(
        out.contains("waits (on thread, 60 runs) holds a thread while it waits 99 % of its time: run it on async"),
        "{out}"
    );
    let advice = json(&place.expect(1, &["advise", "waits", "--strict", "-o", "json"]).0);
    assert_eq!(advice["items"][0]["run_on"], "async");
    place.expect(0, &["advise", "computes", "--strict"]);
    let lines = place.expect(0, &["advise", "-o", "jsonl"]).0;
    assert_eq!(
        lines
            .lines()
            .map(|line| json(line)["verdict"].clone())
            .collect::<Vec<_>>(),
        ["keep", "run_on"]
    );
}

#[test]
fn stats_and_advice_of_nothing() {
    let place = Place::new();
    place.expect(0, &["enqueue", "wordcount"]);
    for command in ["stats", "advise"] {
        let (out, err) = place.expect(0, &[command]);
        assert_eq!(out, "");
        assert!(err.contains("no task ran in the last"), "{err}");
        let empty = json(&place.expect(0, &[command, "--json"]).0);
        assert_eq!(empty["items"].as_array().map(Vec::len), Some(0));
    }
}
