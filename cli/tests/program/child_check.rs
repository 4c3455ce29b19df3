//! `millhand child-check` against the Python child and the Rust child.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::place::{Place, json};

/// The example's folder.
fn python_child() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-child");
    folder.to_str().unwrap().to_owned()
}

#[test]
fn the_python_child_passes_every_check() {
    let (place, program) = (Place::new(), python_child() + "/example.py");
    let (out, _) = place.expect(
        0,
        &[
            "child-check",
            "--within",
            "20s",
            "--task",
            "primes",
            "--args",
            "{\"below\": 5000}",
            "python3",
            &program,
        ],
    );
    assert!(out.lines().count() > 15, "{out}");
    assert!(out.lines().all(|line| line.starts_with("pass  ")), "{out}");
}

#[test]
fn the_rust_child_passes() {
    let millhand = env!("CARGO_BIN_EXE_millhand");
    let job = r#"{"data": [97, 32, 98], "in_word": false, "spoil": false}"#;
    let (out, _) = Place::new().expect(
        0,
        &[
            "child-check",
            "--json",
            "--within",
            "20s",
            "--task",
            "demo.count",
            "--args",
            job,
            millhand,
            "demo",
        ],
    );
    let document = json(&out);
    assert_eq!(document["schema"], "millhand.child-check/1");
    let items = document["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["verdict"] == "passed"), "{out}");
}

#[test]
fn without_a_task_a_last_line_says_what_was_skipped() {
    let program = python_child() + "/example.py";
    let (out, _) = Place::new().expect(0, &["child-check", "--within", "20s", "python3", &program]);
    let lines: Vec<_> = out.lines().collect();
    let (last, checks) = lines.split_last().unwrap();
    let skipped = checks.iter().filter(|line| line.starts_with("skip  ")).count();
    assert!(skipped > 0, "{out}");
    let passed = checks.len() - skipped;
    assert_eq!(*last, format!("{passed} passed, {skipped} skipped: give --task"));
}

#[test]
fn a_child_that_does_not_pass_is_1_and_says_why_once() {
    let one_failure = |args: &[&str], why: &str| {
        let (out, _) = Place::new().expect(1, args);
        let lines: Vec<_> = out.lines().collect();
        let [first, last] = lines.as_slice() else {
            panic!("{out}");
        };
        assert!(first.starts_with("FAIL  says hello") && first.contains(why), "{out}");
        assert!(
            last.starts_with("the other ") && last.ends_with(" checks were not run"),
            "{out}"
        );
    };
    one_failure(&["child-check", "sh", "-c", "echo 'no socket' >&2"], "ended");
    one_failure(&["child-check", "/no/such/program"], "could not be started");
    let began = Instant::now();
    one_failure(
        &["child-check", "--within", "200ms", "cat"],
        "it said nothing within 200ms",
    );
    // All checks, or a limit of their own for the hello, would take far longer.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let (_, err) = Place::new().expect(2, &["child-check", "--task", "t", "--args", "{", "true"]);
    assert!(err.contains("no JSON"), "{err}");
}

#[test]
fn the_codec_of_the_python_child_is_right() {
    let run = Command::new("python3")
        .args(["-m", "unittest", "discover", &python_child()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
