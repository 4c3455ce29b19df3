//! `millhand child-check` against the Python child and the Rust child.
#![allow(clippy::unwrap_used)]

mod place;

use std::path::Path;
use std::process::Command;

use place::{Place, json};

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
fn a_child_that_does_not_pass_is_1_and_says_why() {
    let (out, _) = Place::new().expect(
        1,
        &["child-check", "--within", "1s", "sh", "-c", "echo 'no socket' >&2"],
    );
    assert!(out.lines().all(|line| !line.starts_with("pass")), "{out}");
    assert!(out.contains("FAIL  says hello") && out.contains("ended"), "{out}");
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
