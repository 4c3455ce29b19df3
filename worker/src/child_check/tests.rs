//! The checks against children that do well and children that do not; and the frames in files.

use std::path::Path;

use super::*;
use crate::executors::frames::{Frame, FrameError};

/// This test program as a child: `child_main` of the executors' tests serves in it.
fn this_program(args: &str) -> Trial {
    this_program_by("executors::tests::child_main", args)
}

/// The same with another of those tests that serve.
fn this_program_by(main: &str, args: &str) -> Trial {
    let program = std::env::current_exe().unwrap();
    let words = ["--exact", main, "--nocapture"];
    let command = std::iter::once(program.to_str().unwrap()).chain(words);
    Trial {
        command: command.map(str::to_owned).collect(),
        job: Some((
            TaskName::new("on-process").unwrap(),
            Payload::json(args.to_owned()).unwrap(),
        )),
        within: Duration::from_secs(20),
    }
}

/// A shell that says hello, as process 4711, and then does this.
fn shell(then: &str) -> Trial {
    let hello: String = vector!("hello").iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("printf '{hello}' >&0; {then}");
    Trial {
        command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        job: None,
        within: Duration::from_secs(2),
    }
}

fn failure(tried: Tried) -> String {
    match tried {
        Err(Why::Failed(reason)) => reason,
        Err(Why::Skipped(reason)) => panic!("skipped: {reason}"),
        Ok(()) => panic!("it passed"),
    }
}

fn passes(tried: Tried) {
    if let Err(Why::Failed(reason)) = tried {
        panic!("{reason}");
    }
}

#[test]
fn the_rust_child_passes_every_check() {
    let mut came = Vec::new();
    let counts = check(&this_program(r#"{"Add": 1}"#), |checked| came.push(checked));
    assert!(came.iter().all(|c| c.verdict == Verdict::Passed), "{came:#?}");
    assert_eq!((came.len(), counts.passed), (CHECKS.len(), CHECKS.len()));
    passes(gone_while_busy(&this_program(r#""Sleep""#)));
    passes(cancelled(&this_program(r#""SpinUntilCancelled""#)));
}

#[test]
fn a_child_does_not_wait_for_what_its_main_holds_and_notices_the_workers_end() {
    let holding = |args| this_program_by("executors::tests::child_main_holding_its_output", args);
    let mut failed = Vec::new();
    check(&holding(r#"{"Add": 1}"#), |checked| {
        if checked.verdict != Verdict::Passed {
            failed.push(checked);
        }
    });
    assert!(failed.is_empty(), "{failed:#?}");
    // This job itself waits for ever.
    passes(gone_while_busy(&holding(r#""Print""#)));
}

/// The child in plain Python, with a job for it.
fn python(task: &str, args: &str) -> Trial {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-child/example.py");
    Trial {
        command: vec!["python3".into(), program.to_str().unwrap().into()],
        job: Some((TaskName::new(task).unwrap(), Payload::json(args.to_owned()).unwrap())),
        within: Duration::from_secs(20),
    }
}

#[test]
fn the_python_child_notices_what_happens_while_a_job_runs() {
    passes(gone_while_busy(&python("misbehave", r#"{"how": "spin"}"#)));
    passes(cancelled(&python("primes", r#"{"below": 1000000000}"#)));
}

#[test]
fn after_a_hello_that_failed_nothing_else_is_tried() {
    let mut came = Vec::new();
    let silent = Trial {
        command: vec!["cat".into()],
        within: Duration::from_millis(100),
        ..shell("")
    };
    let counts = check(&silent, |checked| came.push(checked));
    let [
        Checked {
            verdict: Verdict::Failed(why),
            ..
        },
    ] = came.as_slice()
    else {
        panic!("{came:#?}");
    };
    assert_eq!(why, "it said nothing within 100ms");
    assert_eq!((counts.failed, counts.left_out), (1, CHECKS.len() - 1));
}

#[test]
fn an_end_is_told_in_words() {
    let error = "no".to_owned();
    let failed = End::Failed {
        error: error.clone(),
        retry_in_ms: None,
    };
    let job = this_program("null");
    assert_eq!(failure(job.expects(&failed)), "the job had to succeed, and failed: no");
    let nobodys = shell("");
    assert!(nobodys.expects(&failed).is_ok());
    let fatal = End::Fatal {
        reason: "unknown".into(),
        error,
    };
    let said = failure(nobodys.expects(&fatal));
    assert_eq!(
        said,
        "a job of an unknown task has to fail, and it failed for good (unknown): no"
    );
}

#[test]
fn children_that_do_other_things_fail() {
    let deaf = || shell("exec sleep 60");
    assert!(failure(hello(&deaf())).contains("process 4711"));
    assert!(failure(unknown_task(&deaf())).contains("said nothing within 2s"));
    assert!(failure(silenced(&deaf(), |_| Ok(()))).contains("has not ended"));
    assert!(failure(provoked(&deaf(), &vector!("bad/garbage"))).contains("has not ended"));
    // It ends, and what it started does not.
    let leaves = shell("sleep 60 & cat >/dev/null");
    assert!(failure(silenced(&leaves, |_| Ok(()))).contains("left a process"));
    passes(silenced(&shell("exec cat >/dev/null"), |_| Ok(())));
    let ends = shell("echo the reason >&2; exit 3");
    let reason = failure(unknown_task(&ends));
    assert!(reason.contains("ended") || reason.contains("does not read"), "{reason}");
    let echoes = failure(unknown_task(&shell("exec cat >&0")));
    assert!(echoes.contains("only a worker sends"), "{echoes}");
    let silent = Trial {
        command: vec!["true".into()],
        ..deaf()
    };
    assert!(failure(hello(&silent)).contains("ended"));
    let answers: String = vector!("done").iter().map(|byte| format!("\\{byte:03o}")).collect();
    let wrong = failure(unknown_task(&shell(&format!(
        "printf '{answers}' >&0; exec cat >/dev/null"
    ))));
    assert!(wrong.contains("which it did not hold"), "{wrong}");
}

/// The files of `tests/child-protocol`, below this folder of it.
fn files(below: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/child-protocol")
        .join(below);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|e| e == "hex"));
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, unhex(&std::fs::read_to_string(path).unwrap()))
        })
        .collect()
}

#[test]
fn every_frame_of_the_files_is_read_and_written_the_same() {
    let files = files("");
    assert!(files.len() > 10);
    for (name, bytes) in files {
        let frame = Frame::decode(&bytes[4..]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut again = Vec::new();
        frame.append_to(&mut again).unwrap();
        // What was left out, or is not known, is not written.
        if name != "hello-short" && name != "unknown-keys" {
            assert_eq!(again, bytes, "{name}");
        }
    }
}

#[test]
fn every_bad_frame_of_the_files_is_refused() {
    let files = files("bad");
    assert!(files.len() > 10);
    for (name, bytes) in files {
        let refused = Frame::decode(&bytes[4..]);
        // These two are wrong in their length.
        if name != "too-long" && name != "half" {
            assert!(
                matches!(refused, Err(FrameError::Malformed(_) | FrameError::Decode(_))),
                "{name}: {refused:?}"
            );
        }
    }
}
