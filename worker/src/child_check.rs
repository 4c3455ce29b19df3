//! Tries any child against `docs/child-protocol.md`: what it says, and what it makes of a worker that
//! breaks the protocol. Each check has a child of its own.

mod session;

use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Codec, JobId, Payload, TaskName, limits};

use self::session::Session;
use millhand_proto::limits::CHILD_JOBS;

use crate::executors::frames::{End, Hello, VERSION};

/// What is tried, and how.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The child's program and its arguments.
    pub command: Vec<String>,
    /// A job that must succeed: its task, and its arguments. Without one, jobs of a task that no child
    /// knows stand in for it, and some checks are left out.
    pub job: Option<(TaskName, Payload)>,
    /// How long its hello, an answer, or an end, may take.
    pub within: Duration,
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What the child has to do.
    pub name: &'static str,
    /// What it did.
    pub verdict: Verdict,
}

/// Whether a child does what it has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Passed,
    /// It does not, for this reason.
    Failed(String),
    /// It was not tried, for this reason.
    Skipped(&'static str),
}

/// How many checks came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the child does.
    pub passed: usize,
    /// What it does not.
    pub failed: usize,
    /// What was not tried.
    pub skipped: usize,
    /// What was left out after the first check had failed.
    pub left_out: usize,
}

/// Why a check did not pass.
enum Why {
    Failed(String),
    Skipped(&'static str),
}

impl<E: std::fmt::Display> From<E> for Why {
    fn from(reason: E) -> Self {
        Self::Failed(reason.to_string())
    }
}

type Tried<T = ()> = Result<T, Why>;

struct Check {
    name: &'static str,
    run: fn(&Trial) -> Tried,
}

macro_rules! checks {
    ($($name:literal: $run:expr,)+) => {
        const CHECKS: &[Check] = &[$(Check { name: $name, run: $run },)+];
    };
}

/// A file of `tests/child-protocol`.
macro_rules! vector {
    ($name:literal) => {
        unhex(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/child-protocol/",
            $name,
            ".hex"
        )))
    };
}

checks! {
    "says hello, with its version and its tasks": hello,
    "answers a job of a task that it does not know, and goes on": unknown_task,
    "runs the given job": given_job,
    "takes arguments by descriptor": descriptor,
    "answers several jobs of one frame in their order": several,
    "ignores a cancel for a job that it does not hold": strange_cancel,
    "ignores keys that it does not know": unknown_keys,
    "answers a job that was cancelled": cancelled,
    "ends when the worker is gone": |trial| silenced(trial, |_| Ok(())),
    "ends when the worker is gone while it is busy": gone_while_busy,
    "ends at half a frame and the end of the stream": |trial| silenced(trial, |child| child.send(&vector!("bad/half"))),
    "ends at a length of 4 GiB": |trial| provoked(trial, &vector!("bad/too-long")),
    "ends at bytes that are no MessagePack": |trial| provoked(trial, &vector!("bad/garbage")),
    "ends at a frame without a body": |trial| provoked(trial, &vector!("bad/empty")),
    "ends at bytes after the value of a frame": |trial| provoked(trial, &vector!("bad/trailing")),
    "ends at values that nest too deep": |trial| provoked(trial, &vector!("bad/deep")),
    "ends at a list that is longer than its frame": |trial| provoked(trial, &vector!("bad/lying-length")),
    "ends at a frame that is no map": |trial| provoked(trial, &vector!("bad/no-map")),
    "ends at a frame of two kinds": |trial| provoked(trial, &vector!("bad/two-kinds")),
    "ends at a kind that nobody knows": |trial| provoked(trial, &vector!("bad/unknown-kind")),
    "ends at a kind that only a child sends": |trial| provoked(trial, &vector!("done")),
    "ends at a cancel that names no job": |trial| provoked(trial, &vector!("bad/no-id")),
}

/// Runs every check, and tells each as soon as it is done. A child that fails the first, which is its hello,
/// would fail the others in the same way: they are left out.
pub fn check(trial: &Trial, mut told: impl FnMut(Checked)) -> Counts {
    let mut counts = Counts::default();
    for (done, Check { name, run }) in (1..).zip(CHECKS) {
        let (verdict, count) = match run(trial) {
            Ok(()) => (Verdict::Passed, &mut counts.passed),
            Err(Why::Failed(reason)) => (Verdict::Failed(reason), &mut counts.failed),
            Err(Why::Skipped(reason)) => (Verdict::Skipped(reason), &mut counts.skipped),
        };
        *count += 1;
        told(Checked { name, verdict });
        if done == 1 && counts.failed > 0 {
            counts.left_out = CHECKS.len() - done;
            break;
        }
    }
    counts
}

fn unhex(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: String = lines.collect();
    let byte = |at| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..digits.len()).step_by(2).filter_map(byte).collect()
}

fn fail<T>(reason: impl Into<String>) -> Tried<T> {
    Err(Why::Failed(reason.into()))
}

fn id(n: u8) -> JobId {
    JobId::given(&format!("child-check {n}"))
}

/// A job of a task that no child knows.
fn nobodys() -> (TaskName, Payload) {
    let task = TaskName::new("child-check.unknown").unwrap_or_else(|_| unreachable!("a constant that is a name"));
    let args = Payload {
        codec: Codec::Json,
        bytes: Bytes::from_static(b"null"),
    };
    (task, args)
}

impl Trial {
    /// The task and arguments of jobs that are only to be answered.
    fn any_job(&self) -> (TaskName, Payload) {
        self.job.clone().unwrap_or_else(nobodys)
    }

    /// The same, where the job must begin and succeed.
    fn real_job(&self) -> Tried<(TaskName, Payload)> {
        self.job.clone().ok_or(Why::Skipped("no job was given"))
    }

    /// Whether this is how such a job has to end.
    fn expects(&self, end: &End) -> Tried {
        match (&self.job, end) {
            (Some(_), End::Ok(_)) => Ok(()),
            (Some(_), end) => fail(format!("the job had to succeed, and {}", in_words(end))),
            (None, end) => refused(end),
        }
    }
}

/// Whether this is how a job of an unknown task has to end.
fn refused(end: &End) -> Tried {
    match end {
        End::Failed { .. } => Ok(()),
        end => fail(format!(
            "a job of an unknown task has to fail, and it {}",
            in_words(end)
        )),
    }
}

fn in_words(end: &End) -> String {
    match end {
        End::Ok(_) => "succeeded".to_owned(),
        End::Failed { error, .. } => format!("failed: {error}"),
        End::Fatal { reason, error } => format!("failed for good ({reason}): {error}"),
        End::Snooze { delay_ms } => format!("asked for another run in {delay_ms} ms"),
        End::Back(()) => "was given back".to_owned(),
    }
}

fn hello(trial: &Trial) -> Tried {
    let child = Session::start(trial)?;
    let Hello {
        version,
        pid,
        tasks,
        window,
        ..
    } = &child.hello;
    if *version != VERSION {
        return fail(format!("it speaks version {version}, not {VERSION}"));
    }
    if *pid != child.pid() {
        return fail(format!("it says that it is process {pid}, and it is {}", child.pid()));
    }
    if !(1..=CHILD_JOBS).contains(window) {
        return fail(format!("its window is {window}, and not between 1 and {CHILD_JOBS}"));
    }
    match &trial.job {
        Some((task, _)) if !tasks.contains(task) => fail(format!("it does not name task {task}")),
        None if tasks.is_empty() => fail("it names no task"),
        _ => Ok(()),
    }
}

fn unknown_task(trial: &Trial) -> Tried {
    let mut child = Session::start(trial)?;
    let (task, args) = nobodys();
    for n in 1..=2 {
        child.run(&[(id(n), task.clone(), args.clone())])?;
        refused(&child.answer()?.end)?;
    }
    Ok(())
}

fn given_job(trial: &Trial) -> Tried {
    let (task, args) = trial.real_job()?;
    let mut child = Session::start(trial)?;
    for n in 1..=2 {
        child.run(&[(id(n), task.clone(), args.clone())])?;
        let end = child.answer()?.end;
        trial.expects(&end)?;
        if let End::Ok(result) = end {
            let result = child.payload(result)?;
            if result.len() > limits::RESULT_BYTES {
                return fail(format!(
                    "its result has {} bytes, more than {}",
                    result.len(),
                    limits::RESULT_BYTES
                ));
            }
        }
    }
    Ok(())
}

fn descriptor(trial: &Trial) -> Tried {
    let (task, args) = trial.any_job();
    let mut child = Session::start(trial)?;
    if !child.hello.descriptors {
        return Err(Why::Skipped("it says that it takes none"));
    }
    // Twice: each has to be taken with its own job.
    for n in 1..=2 {
        child.run_by_descriptor(id(n), &task, &args)?;
        trial.expects(&child.answer()?.end)?;
    }
    Ok(())
}

fn several(trial: &Trial) -> Tried {
    let (task, args) = trial.any_job();
    let mut child = Session::start(trial)?;
    if child.hello.window < 2 {
        return Err(Why::Skipped("it holds one job at a time"));
    }
    let jobs: Vec<_> = (0..8)
        .take(child.hello.window)
        .map(|n| (id(n), task.clone(), args.clone()))
        .collect();
    child.run(&jobs)?;
    for (job, ..) in &jobs {
        let answered = child.answer()?;
        if answered.job != *job {
            return fail(format!("job {job} was the next, and job {} was answered", answered.job));
        }
        trial.expects(&answered.end)?;
    }
    Ok(())
}

fn strange_cancel(trial: &Trial) -> Tried {
    let (task, args) = trial.any_job();
    let mut child = Session::start(trial)?;
    child.send(&vector!("cancel"))?;
    child.run(&[(id(1), task, args)])?;
    trial.expects(&child.answer()?.end)
}

fn unknown_keys(trial: &Trial) -> Tried {
    let (task, args) = trial.any_job();
    let mut child = Session::start(trial)?;
    child.send(&vector!("unknown-keys"))?;
    child.run_with_unknown_key((id(1), task, args))?;
    trial.expects(&child.answer()?.end)
}

fn cancelled(trial: &Trial) -> Tried {
    let (task, args) = trial.real_job()?;
    let mut child = Session::start(trial)?;
    let mut jobs = vec![(id(1), task.clone(), args.clone())];
    if child.hello.window > 1 {
        jobs.push((id(2), task, args));
    }
    child.run(&jobs)?;
    for (job, ..) in jobs.iter().rev() {
        child.cancel(*job)?;
    }
    // What they end as is the task's affair; a job that had not begun is given back.
    for _ in &jobs {
        child.answer()?;
    }
    // It is as well as before.
    let (task, args) = nobodys();
    child.run(&[(id(3), task, args)])?;
    child.answer().map(drop)
}

fn gone_while_busy(trial: &Trial) -> Tried {
    let (task, args) = trial.real_job()?;
    silenced(trial, |child| child.run(&[(id(1), task, args)]))
}

/// Does this, ends the stream, and waits for the child's end.
fn silenced(trial: &Trial, act: impl FnOnce(&mut Session) -> Tried) -> Tried {
    let mut child = Session::start(trial)?;
    act(&mut child)?;
    child.hang_up();
    child.ends()
}

/// Sends this, and waits for the child's end; the stream stays open.
fn provoked(trial: &Trial, bytes: &[u8]) -> Tried {
    let mut child = Session::start(trial)?;
    child.send(bytes)?;
    child.ends()
}

#[cfg(test)]
mod tests;
