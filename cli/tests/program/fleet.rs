//! The program on RabbitMQ and Redis: the same commands, two URLs later.

use std::process::Stdio;
use std::time::Instant;

use millhand_proto::{JobId, limits};

use crate::place::{Place, json, signal, text, until};

/// Settings that name both servers, in a namespace of their own.
fn fleet(namespace: &str) -> Place {
    let servers = millhand_servers::shared();
    let place = Place::new();
    let tasks = std::fs::read_to_string(place.path().join("millhand.toml")).unwrap();
    let urls = format!(
        "broker = \"{}?ns={namespace}\"\nstore = \"{}\"\n",
        servers.rabbit.url(),
        servers.redis.url()
    );
    std::fs::write(place.path().join("millhand.toml"), urls + &tasks).unwrap();
    place
}

fn state(place: &Place, id: &str) -> Option<String> {
    let shown = place.run(&["job", "show", id, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
    Some(shown["job"]["state"].as_str()?.to_owned())
}

#[test]
fn a_command_task_runs_through_both_servers() {
    let place = fleet("command");
    let _worker = place.worker();
    let (out, err) = place.expect(0, &["enqueue", "wordcount", "--args", "\"a b c\"", "--wait"]);
    assert_eq!((out.trim(), err.as_str()), ("3", ""));
    let (out, err) = place.expect(100, &["enqueue", "fail", "--id", "mine", "--wait"]);
    assert_eq!(out, "");
    assert!(
        err.contains("dead after 1 attempt") && err.contains("it broke"),
        "{err}"
    );
    let listed = json(
        &place
            .expect(0, &["job", "list", "--state", "succeeded,dead", "--json"])
            .0,
    );
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    let queues = json(&place.expect(0, &["queue", "list", "--json"]).0);
    assert_eq!(queues["items"][0]["name"], "default", "{queues}");
}

#[test]
fn waiting_jobs_are_seen_paused_purged_made_due_and_cancelled() {
    let place = fleet("waiting");
    let queued = place.expect(0, &["enqueue", "wordcount", "--args", "\"a\""]).0;
    let later = place
        .expect(0, &["enqueue", "wordcount", "--args", "\"a b\"", "--delay", "1h"])
        .0;
    let never = place
        .expect(0, &["enqueue", "wordcount", "--args", "\"c\"", "--delay", "1h"])
        .0;
    let (queued, later, never) = (queued.trim(), later.trim(), never.trim());
    assert_eq!(state(&place, queued).as_deref(), Some("queued"));
    assert_eq!(state(&place, later).as_deref(), Some("scheduled"));
    let listed = json(&place.expect(0, &["job", "list", "--state", "scheduled", "--json"]).0);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    let (_, err) = place.expect(0, &["queue", "list"]);
    assert!(err.contains("QUEUED counts messages"), "{err}");
    let (_, err) = place.expect(0, &["queue", "purge", "default", "--yes"]);
    assert!(err.contains("purged 1 message"), "{err}");
    assert_eq!(state(&place, queued).as_deref(), Some("cancelled"));
    place.expect(0, &["job", "cancel", never]);
    assert_eq!(state(&place, never).as_deref(), Some("cancelled"));
    place.expect(0, &["queue", "pause", "default"]);
    let _worker = place.worker();
    place.expect(0, &["job", "run-now", later]);
    place.expect(124, &["job", "wait", later, "--timeout", "2s"]);
    place.expect(0, &["queue", "resume", "default"]);
    let (out, _) = place.expect(0, &["job", "wait", later, "--timeout", "30s", "--json"]);
    assert_eq!(json(&out)["items"][0]["result"], 2, "{out}");
}

#[test]
fn the_dead_are_retried_by_a_filter_and_remembered_again_when_the_store_forgot() {
    // It empties its store, so it has one of its own.
    let redis = millhand_servers::Redis::start();
    let place = fleet("dead");
    let settings = place.path().join("millhand.toml");
    let written = std::fs::read_to_string(&settings).unwrap();
    let shared = millhand_servers::shared().redis.url();
    std::fs::write(&settings, written.replace(&shared, &redis.url())).unwrap();
    let _worker = place.worker();
    for id in ["a", "b", "c"] {
        place.expect(100, &["enqueue", "fail", "--id", id, "--wait"]);
    }
    let (_, err) = place.expect(0, &["job", "retry", "--state", "dead", "--task", "fail", "--dry-run"]);
    assert!(err.contains("Retry 3 jobs"), "{err}");
    place.expect(
        7,
        &["job", "retry", "--state", "dead", "--task", "fail", "--expect", "4"],
    );
    let (_, err) = place.expect(
        0,
        &[
            "job", "retry", "--state", "dead", "--task", "fail", "--expect", "3", "--yes",
        ],
    );
    assert!(err.contains("retried 3 jobs"), "{err}");
    let attempts = |id: &str| {
        let shown = place.run(&["job", "show", id, "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let job = &shown["job"];
        (job["state"] == "dead").then(|| job["attempts"].as_u64()).flatten()
    };
    for id in ["a", "b", "c"] {
        until(&format!("{id} is dead again"), || attempts(id) == Some(2));
    }
    redis.flush();
    // The worker may be faster than this command: it looks by itself when the store forgot.
    place.expect(0, &["dead", "rebuild"]);
    for id in ["a", "b", "c"] {
        until(&format!("{id} is known again"), || attempts(id) == Some(2));
    }
    let (_, err) = place.expect(0, &["job", "retry", "a"]);
    assert!(err.contains("retried 1 job"), "{err}");
    until("a is dead again", || attempts("a") == Some(3));
}

/// A demo of this place's files on the fleet.
fn demo(place: &Place, namespace: &str, files: usize) -> Vec<String> {
    let servers = millhand_servers::shared();
    std::fs::create_dir(place.path().join("files")).unwrap();
    for n in 0..files {
        let text = "all work and no play\n".repeat(n % 50 * 50);
        std::fs::write(place.path().join(format!("files/{n}.txt")), text).unwrap();
    }
    let broker = format!("{}?ns={namespace}", servers.rabbit.url());
    let report = place.path().join("report.html");
    let args = [
        "demo",
        "files",
        "--broker",
        &broker,
        "--store",
        &servers.redis.url(),
        "--json",
        "--report",
    ];
    let args = args.into_iter().chain([report.to_str().unwrap()]);
    args.map(str::to_owned).collect()
}

/// Jobs that wait in any queue of this place, and such as a worker has in its hands.
fn waiting(place: &Place) -> u64 {
    let queues = json(&place.expect(0, &["queue", "list", "--json"]).0);
    let of = |queue: &serde_json::Value, what: &str| queue[what].as_u64().unwrap_or(0);
    let items = queues["items"].as_array().unwrap().iter();
    items.map(|queue| of(queue, "queued") + of(queue, "held")).sum()
}

#[test]
fn the_demo_proves_itself_on_the_fleet() {
    let place = fleet("demo");
    let args = demo(&place, "demo", 20);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (out, _) = place.expect(0, &args);
    assert_eq!(json(&out)["schema"], "millhand.demo/1", "{out}");
    assert_eq!(waiting(&place), 0);
}

#[test]
fn an_interrupted_demo_leaves_nothing_to_others() {
    let place = fleet("interrupted");
    let args = demo(&place, "interrupted", 3000);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let running = place
        .command(&args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let running = running.unwrap();
    until("jobs to wait", || waiting(&place) > 0);
    signal(&running, "-INT");
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert_eq!(waiting(&place), 0);
}

#[test]
fn servers_that_are_away_are_named_and_no_secret_is_told() {
    let place = Place::new();
    let args = |broker: &'static str, store: &'static str| ["queue", "list", "--broker", broker, "--store", store];
    let (_, err) = place.expect(5, &args("amqp://ana:canary@127.0.0.1:1", "redis://:canary@127.0.0.1:1"));
    assert!(err.contains("127.0.0.1:1") && !err.contains("canary"), "{err}");
    let away = [
        "--broker",
        "amqp://ana:canary@127.0.0.1:1",
        "--store",
        "redis://:canary@127.0.0.1:1",
    ];
    let (_, err) = place.expect(5, &[&["enqueue", "wordcount"], &away[..]].concat());
    assert!(
        err.contains("has not taken it yet; it is tried on: RabbitMQ cannot be reached: Connection refused")
            && err.contains("was not enqueued"),
        "{err}"
    );
    assert!(!err.contains("canary"), "{err}");
    // The time of the enqueue counts: less than it would be tried without a limit.
    let began = Instant::now();
    let waits = [
        "enqueue",
        "wordcount",
        "--id",
        "mine",
        "--wait",
        "--wait-timeout",
        "100ms",
    ];
    let (_, err) = place.expect(124, &[&waits[..], &away].concat());
    assert!(began.elapsed() < limits::PUBLISH, "{:?}", began.elapsed());
    assert!(
        err.contains(&format!("job {} was not taken within 100 ms", JobId::given("mine"))) && err.contains("may still"),
        "{err}"
    );
    assert!(!err.contains("canary"), "{err}");
    let (_, err) = place.expect(2, &args("amqp://ana:canary@h", "sqlite:a.db"));
    assert!(err.contains("redis://HOST") && !err.contains("canary"), "{err}");
}
