//! Command tasks: every run starts the command, in a process group of its own.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Codec, CrashCause, ErrorText, Outcome, Payload, limits};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::capture::Capture;
use super::group::{Group, end, end_in_words};
use super::lines::Lines;
use super::{Ended, GRACE, LOOK, LOOK_LAZILY, Run, tree};
use crate::log::Source;
use crate::registry::bad_arguments;
use crate::stop::Step;

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
    // Standard output is the result; only without one it belongs into the log.
    let printed = run.log.aside();
    let mut stdout = Capture::start(
        stdout,
        limits::RESULT_BYTES + 1,
        Lines::new(Source::Out),
        printed.clone(),
    );
    let mut stderr = Capture::start(stderr, 0, Lines::new(Source::Err), run.log.clone());
    let feeding = tokio::spawn(async move {
        // A command need not read its input: a closed pipe is no error.
        let _ = stdin.write_all(args.as_bytes()).await;
    });

    let pid = group.leader.id();
    let mut peak = None;
    let ended = tokio::select! {
        status = group.leader.wait() => Ok(status),
        timed_out = run.timed_out() => Err(timed_out),
        () = run.stop.reaches(Step::Asked) => Err(ask_to_end(&mut group, run).await),
        crashed = memory(pid, run, &mut peak) => Err(crashed),
        never = soften(pid, run) => match never {},
    };
    feeding.abort();
    match ended {
        Ok(_) => {
            let left = group.kill_rest();
            if left > 0 {
                let text = format!("it left {left} process(es) behind, which were ended");
                run.log.add(Source::Said, text);
            }
        }
        Err(_) => drop(group.kill().await),
    }
    let (output, _) = tokio::join!(stdout.bytes(AFTER_EXIT), stderr.bytes(AFTER_EXIT));
    let outcome = match ended {
        Ok(Ok(status)) if status.success() => succeeded(result(output)),
        Ok(Ok(status)) => unsuccessful(status, run),
        Ok(Err(error)) => {
            Ended::crashed(CrashCause::Closed, format!("the end of the command was lost: {error}")).outcome
        }
        Err(outcome) => outcome,
    };
    if !matches!(outcome, Outcome::Succeeded(_)) {
        run.log.absorb(&printed);
    }
    Ended {
        peak,
        ..Ended::only(outcome)
    }
}

/// Too much is refused here: of what did not fit nobody knows how much it was.
fn succeeded(result: Payload) -> Outcome {
    if result.bytes.len() <= limits::RESULT_BYTES {
        return Outcome::Succeeded(result);
    }
    Outcome::Fatal {
        reason: "result_too_big".to_owned(),
        error: ErrorText::new(format!("the result has more than {} bytes", limits::RESULT_BYTES)),
    }
}

/// How a command ended that did not succeed.
fn unsuccessful(status: ExitStatus, run: &Run) -> Outcome {
    let text = run.log.after(&end_in_words(status));
    match status.code() {
        Some(_) => run.stop.explains(Ended::failed(text).outcome),
        None if run.stop.is(Step::Told) => run.stop.outcome(),
        None => Ended::crashed(end(status), text).outcome,
    }
}

/// Watches what the command holds, and comes back when it is too much.
async fn memory(pid: Option<u32>, run: &Run, peak: &mut Option<u64>) -> Outcome {
    let mut every = LOOK;
    loop {
        tokio::time::sleep(every).await;
        *peak = (*peak).max(pid.and_then(tree::resident_with_descendants));
        if let Some(outcome) = run.over_memory(*peak) {
            return outcome;
        }
        if run.memory.is_none() {
            every = (every * 2).min(LOOK_LAZILY);
        }
    }
}

/// SIGTERM to the group at the soft limit; never ends.
async fn soften(pid: Option<u32>, run: &Run) -> std::convert::Infallible {
    if let Some(limit) = run.soft {
        tokio::time::sleep(limit).await;
        run.ask_at_soft_limit(limit);
        if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            // An error says that nobody is left.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
    std::future::pending().await
}

/// SIGTERM to the group for a cancelled job, and a grace for its leader; the caller kills the rest.
async fn ask_to_end(group: &mut Group, run: &Run) -> Outcome {
    if !run.stop.is(Step::AtOnce) {
        group.signal(Signal::TERM);
        tokio::select! {
            _ = group.leader.wait() => {}
            () = tokio::time::sleep(GRACE) => {}
            () = run.stop.reaches(Step::AtOnce) => {}
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
