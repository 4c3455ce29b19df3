//! The process executor: warm children, each serving one job at a time. A child whose end, answer
//! or silence is not what the protocol says costs its job one crash, and is replaced.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use millhand_proto::{CrashCause, Outcome, Payload};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

use super::capture::{Capture, Keep, STDERR_KEPT, with_stderr};
use super::frames::{Cancel, Done, Frame, FrameError, Frames, RunFrame, VERSION, millis, parcels};
use super::group::{Group, end, end_in_words};
use super::{Ended, GRACE, Run};
use crate::child::CHILD_VARIABLE;

/// How long a child may take to say hello: all of the program's `main` before `run` runs in it.
const HELLO: Duration = Duration::from_secs(30);

/// How long the rest of a dead child's standard error is waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How children are started.
#[derive(Clone, Debug)]
pub(super) struct ChildCommand {
    pub(super) program: PathBuf,
    /// Shown as the child's name.
    pub(super) arg0: Option<OsString>,
    pub(super) args: Vec<OsString>,
    pub(super) envs: Vec<(String, String)>,
}

impl ChildCommand {
    /// This program again, with its arguments.
    pub(super) fn this_program() -> std::io::Result<Self> {
        // On Linux this name stays right when the file was replaced by a newer one.
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        let mut args = std::env::args_os();
        Ok(Self {
            program,
            arg0: args.next(),
            args: args.collect(),
            envs: Vec::new(),
        })
    }
}

pub(super) struct Processes {
    command: ChildCommand,
    /// As many are kept warm as there are slots.
    most: usize,
    idle: Mutex<Vec<Child>>,
}

/// A child that has said hello.
struct Child {
    group: Group,
    frames: Frames<OwnedReadHalf>,
    outgoing: OwnedWriteHalf,
    stderr: Capture,
}

/// How a job's time with a child ended.
enum Talk {
    /// With an answer: the child is well.
    Done(Ended),
    /// From outside: the child is to be killed.
    Stopped(Outcome),
    /// The child broke, for this reason if it is not its own end.
    Broken(Option<FrameError>),
    /// It was gone before it had the whole job.
    NeverBegan,
}

impl Processes {
    pub(super) fn new(command: ChildCommand, most: usize) -> Self {
        Self {
            command,
            most,
            idle: Mutex::default(),
        }
    }

    pub(super) async fn run(&self, run: &Run) -> Ended {
        let frame = match frame(run) {
            Ok(frame) => frame,
            Err(error) => return Ended::failed(error.to_string()),
        };
        // A suspect must not meet what another job left behind, nor the other way round.
        let warm = if run.suspect { None } else { self.take_warm() };
        if let Some(child) = warm {
            match self.serve(child, run, frame.clone()).await {
                Some(ended) => return ended,
                // It had died while it was idle, which is not this job's fault.
                None => tracing::debug!("an idle child was gone"),
            }
        }
        let child = tokio::select! {
            child = Child::start(&self.command) => child,
            () = run.stop.asked.cancelled() => return Ended::only(run.stop.outcome()),
        };
        match child {
            Ok(child) => {
                let gone = || Ended::crashed(CrashCause::Closed, "the child process ended before it took the job");
                self.serve(child, run, frame).await.unwrap_or_else(gone)
            }
            Err(why) => Ended::failed(format!("no child process could be started: {why}")),
        }
    }

    /// `None` when the child was gone before it had the job.
    async fn serve(&self, mut child: Child, run: &Run, frame: Bytes) -> Option<Ended> {
        match child.talk(run, frame).await {
            Talk::Done(ended) => {
                if !run.suspect {
                    self.keep(child);
                }
                Some(ended)
            }
            Talk::Stopped(outcome) => {
                child.group.kill().await;
                Some(Ended::only(outcome))
            }
            Talk::Broken(reason) => {
                let (cause, text) = child.cause(reason).await;
                Some(Ended::crashed(cause, text))
            }
            Talk::NeverBegan => None,
        }
    }

    fn take_warm(&self) -> Option<Child> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut child) = idle.pop() {
            if matches!(child.group.leader.try_wait(), Ok(None)) {
                return Some(child);
            }
        }
        None
    }

    fn keep(&self, child: Child) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most {
            idle.push(child);
        }
    }

    pub(super) async fn stop(self) {
        for mut child in self.idle.into_inner().unwrap_or_else(PoisonError::into_inner) {
            child.group.kill().await;
        }
    }
}

fn frame(run: &Run) -> Result<Bytes, FrameError> {
    let Payload { codec, bytes } = run.args.clone();
    Frame::Run(RunFrame {
        job: run.job,
        root: run.root,
        attempt: run.attempt,
        fence: run.fence,
        claimed: run.claimed,
        task: run.task.clone(),
        args: Payload { codec, bytes },
        deadline_ms: run.hard.map(millis),
    })
    .encode()
}

impl Child {
    async fn start(command: &ChildCommand) -> Result<Self, String> {
        let mut child = Self::spawn(command).map_err(|error| error.to_string())?;
        let hello = tokio::time::timeout(HELLO, child.frames.next()).await;
        match hello {
            Ok(Ok(Some(Frame::Hello(hello)))) if hello.version == VERSION => {
                tracing::debug!(pid = hello.pid, tasks = hello.tasks.len(), "a child is ready");
                Ok(child)
            }
            Ok(Ok(Some(Frame::Hello(hello)))) => {
                child.group.kill().await;
                Err(format!(
                    "it speaks version {} of the protocol, not {VERSION}",
                    hello.version
                ))
            }
            Ok(Ok(Some(_))) => {
                child.group.kill().await;
                Err("it did not say hello first".to_owned())
            }
            Ok(Ok(None)) => Err(child.cause(None).await.1),
            Ok(Err(error)) => Err(child.cause(Some(error)).await.1),
            Err(_) => {
                child.group.kill().await;
                Err(format!("it did not say hello within {HELLO:?}"))
            }
        }
    }

    fn spawn(command: &ChildCommand) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut start = Command::new(&command.program);
        if let Some(arg0) = &command.arg0 {
            start.arg0(arg0);
        }
        start
            .args(&command.args)
            .envs(command.envs.iter().map(|(key, value)| (key, value)))
            .env(CHILD_VARIABLE, "1")
            .stdin(OwnedFd::from(theirs))
            // What a handler prints must not mix with the worker's own output.
            .stdout(std::io::stderr().as_fd().try_clone_to_owned()?)
            .stderr(Stdio::piped());
        let mut group = Group::spawn(&mut start)?;
        let stderr = group
            .leader
            .stderr
            .take()
            .ok_or_else(|| std::io::Error::other("no standard error"))?;
        let (incoming, outgoing) = UnixStream::from_std(ours)?.into_split();
        let stderr = Capture::start(stderr, Keep::Last(STDERR_KEPT), true);
        Ok(Self {
            group,
            frames: Frames::new(incoming),
            outgoing,
            stderr,
        })
    }

    /// Gives the child its job and waits for the end of it.
    async fn talk(&mut self, run: &Run, frame: Bytes) -> Talk {
        self.stderr.forget();
        let mut unsent = BytesMut::from(&frame[..]);
        let mut begun = false;
        let mut asked = false;
        let timed_out = run.timed_out();
        // Set when a cancel is asked for.
        let patience = tokio::time::sleep(Duration::MAX);
        tokio::pin!(timed_out, patience);
        loop {
            tokio::select! {
                biased;
                answer = self.frames.next() => return match answer {
                    Ok(Some(Frame::Done(done))) if done.job == run.job => answered(done, run),
                    Ok(Some(Frame::Done(done))) => Talk::Broken(Some(FrameError::OtherJob(done.job))),
                    Ok(Some(_)) => Talk::Broken(Some(FrameError::Unexpected)),
                    // A job that was not sent whole did not begin.
                    Ok(None) | Err(FrameError::Io(_)) if !begun => Talk::NeverBegan,
                    Ok(None) | Err(FrameError::Io(_)) => Talk::Broken(None),
                    Err(error) => Talk::Broken(Some(error)),
                },
                () = run.stop.at_once.cancelled() => return Talk::Stopped(run.stop.outcome()),
                limit = &mut timed_out => return Talk::Stopped(Outcome::TimedOut(limit)),
                () = run.stop.asked.cancelled(), if !asked => {
                    asked = true;
                    if let Ok(frame) = Frame::Cancel(Cancel { job: run.job }).encode() {
                        unsent.extend_from_slice(&frame);
                    }
                    patience.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
                () = &mut patience, if asked => return Talk::Stopped(run.stop.outcome()),
                sent = self.outgoing.write(&unsent), if !unsent.is_empty() => match sent {
                    Ok(count) => {
                        unsent.advance(count);
                        begun |= unsent.is_empty();
                    }
                    // It no longer reads: its end, or its answer, is what to look at.
                    Err(_) => unsent.clear(),
                },
                // Its end by itself closes the socket too, unless it left somebody who holds it.
                _ = self.group.leader.wait() => {
                    self.group.kill_rest();
                    let last = tokio::time::timeout(LAST_WORDS, self.frames.next()).await;
                    return match last {
                        Ok(Ok(Some(Frame::Done(done)))) if done.job == run.job => answered(done, run),
                        _ if !begun => Talk::NeverBegan,
                        Ok(Err(error @ (FrameError::TooLong(_) | FrameError::Malformed(_) | FrameError::Decode(_)))) => Talk::Broken(Some(error)),
                        _ => Talk::Broken(None),
                    };
                }
            }
        }
    }

    /// Why the child broke, in words; it is dead afterwards.
    async fn cause(&mut self, reason: Option<FrameError>) -> (CrashCause, String) {
        let (cause, text) = match reason {
            Some(error) => {
                self.group.kill().await;
                (
                    CrashCause::Protocol,
                    format!("the child process broke its protocol: {error}"),
                )
            }
            None => {
                // The stream ended: the process ends by itself, or only closed its socket.
                let ended = tokio::time::timeout(LAST_WORDS, self.group.leader.wait()).await;
                match ended {
                    Ok(Ok(status)) => {
                        self.group.kill_rest();
                        let words = end_in_words(status);
                        (
                            end(status),
                            format!("the child process ended without an answer: {words}"),
                        )
                    }
                    _ => {
                        self.group.kill().await;
                        let text = "the child process closed its socket without an answer";
                        (CrashCause::Closed, text.to_owned())
                    }
                }
            }
        };
        (cause, with_stderr(&text, &self.stderr.bytes(LAST_WORDS).await))
    }
}

fn answered(done: Done, run: &Run) -> Talk {
    let children = match parcels(&done.children) {
        Ok(children) => children,
        Err(error) => return Talk::Broken(Some(error)),
    };
    Talk::Done(Ended {
        run: Some(Duration::from_micros(done.run)),
        encode: Duration::from_micros(done.encode),
        cpu: done.cpu.map(Duration::from_micros),
        children,
        ..Ended::only(run.stop.explains(done.answer.into_outcome()))
    })
}
