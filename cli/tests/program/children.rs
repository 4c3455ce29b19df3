//! Warm children of `millhand worker`: replaced when the settings say so, told about when they crash, with
//! results of any size.

use std::fs;
use std::path::Path;

use crate::place::{Place, json, until};

const SETTINGS: &str = r#"
[worker]
processes = 1
recycle_jobs = 3
[tasks.pid]
child = ["python3", "pid.py"]
crashes = 1
[tasks.big]
child = ["python3", "pid.py"]
"#;

/// A child that answers its process id, or ends by the signal that it is given.
const CHILD: &str = r#"
import os
from child import serve, task

@task("big")
def big(args, cx):
    # Big enough to be handed over in a file.
    return "x" * args

@task("pid")
def pid(args, cx):
    if args:
        os.kill(os.getpid(), args)
    return os.getpid()

serve()
"#;

fn place() -> Place {
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-child");
    for module in ["child.py", "codec.py"] {
        fs::copy(example.join(module), place.path().join(module)).unwrap();
    }
    fs::write(place.path().join("millhand.toml"), SETTINGS).unwrap();
    fs::write(place.path().join("pid.py"), CHILD).unwrap();
    place
}

#[test]
fn a_child_is_replaced_after_as_many_jobs_as_the_settings_say() {
    let place = place();
    let _worker = place.worker();
    let mut pids: Vec<(String, usize)> = Vec::new();
    until("a third child", || {
        let (pid, _) = place.expect(0, &["enqueue", "pid", "--wait"]);
        match pids.last_mut() {
            Some((last, jobs)) if *last == pid => *jobs += 1,
            _ => pids.push((pid, 1)),
        }
        pids.len() == 3
    });
    // The successor may take its time to start.
    assert!(pids[..2].iter().all(|(_, jobs)| *jobs >= 3), "{pids:?}");
}

#[test]
fn a_big_result_comes_in_a_file_and_a_bigger_one_is_refused() {
    let place = place();
    let _worker = place.worker();
    let (big, _) = place.expect(0, &["enqueue", "big", "--args", "500000", "--wait"]);
    assert_eq!(big.trim().len(), 500_000);
    let (_, said) = place.expect(100, &["enqueue", "big", "--args", "1100000", "--wait"]);
    assert!(said.contains("result_too_big") || said.contains("more than"), "{said}");
}

#[test]
fn the_cause_of_a_crash_and_the_start_of_the_child_are_shown() {
    let place = place();
    let _worker = place.worker();
    place.expect(100, &["enqueue", "pid", "--id", "mine", "--args", "11", "--wait"]);
    let job = json(&place.expect(0, &["job", "show", "mine", "--json"]).0)["job"].clone();
    let note = &job["attempt_notes"][0];
    assert_eq!(
        (&note["end"], &note["cause"]),
        (&"crashed".into(), &"SIGSEGV".into()),
        "{job}"
    );
    let (start, dispatch) = (&job["receipt"]["start_seconds"], &job["receipt"]["dispatch_seconds"]);
    assert!(start.as_f64().unwrap() <= dispatch.as_f64().unwrap(), "{job}");
    let (text, _) = place.expect(0, &["job", "show", "mine"]);
    assert!(
        text.contains(", cause SIGSEGV\n") && text.contains("\n    start "),
        "{text}"
    );
}
