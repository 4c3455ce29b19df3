//! Workers that are stopped, or killed, while a job runs.

use std::fs;
use std::path::Path;

use crate::place::{Place, Running, json, signal, until};

/// Each run writes a line to `runs` and its process id to `pid`, then waits for the file `go`.
const TASKS: &str = r#"
[worker]
async = 1
threads = 1
processes = 1
grace = "30s"
[tasks.wait]
command = ["sh", "-c", "echo run >>runs; echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done; echo 7"]
retries = 0
"#;

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path().join("millhand.toml"), TASKS).unwrap();
    place
}

fn runs(place: &Path) -> usize {
    fs::read_to_string(place.join("runs"))
        .unwrap_or_default()
        .lines()
        .count()
}

fn started(place: &Place) -> Running {
    let worker = place.worker();
    place.expect(0, &["enqueue", "wait", "--id", "mine"]);
    until("the job to run", || runs(place.path()) == 1);
    worker
}

fn shown(place: &Place) -> serde_json::Value {
    json(&place.expect(0, &["job", "show", "mine", "--json"]).0)["job"].clone()
}

fn exit_code(mut worker: Running) -> Option<i32> {
    let mut code = None;
    until("the worker to end", || {
        code = worker.0.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|status| status.code())
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_its_job_first() {
    let place = place();
    let worker = started(&place);
    signal(&worker.0, "-TERM");
    // It takes nothing new.
    place.expect(0, &["enqueue", "wait", "--id", "later"]);
    fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(exit_code(worker), Some(0));
    let job = shown(&place);
    assert_eq!(
        (&job["state"], &job["result"]),
        (&"succeeded".into(), &7.into()),
        "{job}"
    );
    let later = json(&place.expect(0, &["job", "show", "later", "--json"]).0);
    assert_eq!(later["job"]["state"], "queued");
    assert_eq!(runs(place.path()), 1);
}

#[test]
fn a_second_signal_gives_the_job_back_at_once_and_no_attempt_is_counted() {
    let place = place();
    let worker = started(&place);
    let pid = fs::read_to_string(place.path().join("pid")).unwrap();
    // Two that come together may be taken for one.
    until("the job to be given back", || {
        signal(&worker.0, "-TERM");
        shown(&place)["state"] == "queued"
    });
    assert_eq!(exit_code(worker), Some(0));
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the command still runs");
    let job = shown(&place);
    assert_eq!(job["state"], "queued", "{job}");
    // The next worker runs it as its first attempt.
    fs::write(place.path().join("go"), "").unwrap();
    let _next = place.worker();
    place.expect(0, &["job", "wait", "mine"]);
    let job = shown(&place);
    assert_eq!(
        (&job["state"], &job["attempts"]),
        (&"succeeded".into(), &1.into()),
        "{job}"
    );
    assert_eq!(runs(place.path()), 2);
}

#[test]
fn a_worker_that_is_killed_loses_no_job() {
    let place = place();
    let mut worker = started(&place);
    signal(&worker.0, "-KILL");
    worker.0.wait().unwrap();
    fs::write(place.path().join("go"), "").unwrap();
    let next = place.worker();
    place.expect(0, &["job", "wait", "mine", "--timeout", "20s"]);
    let job = shown(&place);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(runs(place.path()), 2);
    drop(next);
}
