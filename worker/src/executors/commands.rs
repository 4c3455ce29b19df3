//! Command tasks: every run starts the command, in a process group of its own.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Codec, CrashCause, Outcome, Payload, limits};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::capture::{Capture, Keep, STDERR_KEPT, with_stderr};
use super::group::{Group, end, end_in_words};
use super::{Ended, GRACE, Run};
use crate::registry::bad_arguments;

/// How long a grandchild may hold standard output open after the command ended.
const AFTER_EXIT: Duration = Duration::from_secs(1);

pub(super) async fn run(command: &[String], run: &Run) -> Ended {
    let args = match run.args.to_json() {
        Ok(args) => args,
        Err(error) => return Ended::only(bad_arguments(run.task.as_str(), &error)),
    };
    let Some((program, rest)) = command.split_first() else {
        return Ended::failed("the command is empty");
    };
    let started = Group::spawn(
        Command::new(program)
            .args(rest)
            .env("MILLHAND_JOB_ID", run.job.to_string())
            .env("MILLHAND_ATTEMPT", run.attempt.to_string())
            .env("MILLHAND_TASK", run.task.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let mut group = match started {
        Ok(group) => group,
        Err(error) => return Ended::failed(format!("the command {program:?} could not be started: {error}")),
    };
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (
        group.leader.stdin.take(),
        group.leader.stdout.take(),
        group.leader.stderr.take(),
    ) else {
        return Ended::failed("the command has no standard streams");
    };
    let mut stdout = Capture::start(stdout, Keep::First(limits::RESULT_BYTES + 1), false);
    let mut stderr = Capture::start(stderr, Keep::Last(STDERR_KEPT), false);
    let feeding = tokio::spawn(async move {
        // A command need not read its input: a closed pipe is no error.
        let _ = stdin.write_all(args.as_bytes()).await;
    });

    let ended = tokio::select! {
        status = group.leader.wait() => Ok(status),
        limit = run.timed_out() => Err(Outcome::TimedOut(limit)),
        () = run.stop.asked.cancelled() => Err(ask_to_end(&mut group, run).await),
    };
    group.kill_rest();
    feeding.abort();
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            return Ended::crashed(CrashCause::Closed, format!("the end of the command was lost: {error}"));
        }
        Err(outcome) => {
            let _ = group.leader.wait().await;
            return Ended::only(outcome);
        }
    };
    if status.success() {
        let output = stdout.bytes(AFTER_EXIT).await;
        return Ended::only(Outcome::Succeeded(result(output)));
    }
    let text = with_stderr(&end_in_words(status), &stderr.bytes(AFTER_EXIT).await);
    if status.code().is_some() {
        Ended::failed(text)
    } else {
        Ended::crashed(end(status), text)
    }
}

/// SIGTERM to the group for a cancelled job, and a grace for its leader; the caller kills the rest.
async fn ask_to_end(group: &mut Group, run: &Run) -> Outcome {
    if !run.stop.at_once.is_cancelled() {
        group.signal(Signal::TERM);
        tokio::select! {
            _ = group.leader.wait() => {}
            () = tokio::time::sleep(GRACE) => {}
            () = run.stop.at_once.cancelled() => {}
        }
    }
    run.stop.outcome()
}

/// Standard output as a result: JSON if it parses, else the text as a JSON string.
fn result(mut output: Vec<u8>) -> Payload {
    if output.last() == Some(&b'\n') {
        output.pop();
    }
    let output = Bytes::from(output);
    Payload::json(output.clone()).unwrap_or_else(|_| {
        let text = serde_json::Value::String(String::from_utf8_lossy(&output).into_owned());
        Payload {
            codec: Codec::Json,
            bytes: text.to_string().into(),
        }
    })
}
