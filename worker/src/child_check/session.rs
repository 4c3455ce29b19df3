//! One child under trial, and this side of its socket.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millhand_proto::{Fence, JobId, Payload, TaskName, Timestamp, limits};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Trial, Tried, Why, fail};
use crate::child::CHILD_VARIABLE;
use crate::executors::frames::{Cancel, Carried, Done, End, Frame, Hello, RunJob};
use crate::executors::socket::{Inbox, Outbox};
use crate::executors::{shared, tree};

/// Lines of standard error that are told when a check fails.
const LINES: usize = 3;
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Session {
    child: Child,
    group: Option<Pid>,
    socket: UnixStream,
    inbox: Inbox,
    within: Duration,
    /// What it said last on standard error.
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// Jobs that it was given and has not answered.
    given: VecDeque<JobId>,
    answers: VecDeque<Done>,
    pub(super) hello: Hello,
}

/// An answer that came when it may.
pub(super) struct Answered {
    pub(super) job: JobId,
    pub(super) end: End,
}

impl Session {
    pub(super) fn start(trial: &Trial) -> Tried<Self> {
        let (program, args) = trial
            .command
            .split_first()
            .ok_or(Why::Failed("the command is empty".into()))?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(program)
            .args(args)
            .env(CHILD_VARIABLE, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{program:?} could not be started: {e}"))?;
        let last_words: Arc<Mutex<VecDeque<String>>> = Arc::default();
        if let Some(stderr) = child.stderr.take() {
            let words = Arc::clone(&last_words);
            // Ends with the last process that holds the other end.
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                    words.push_back(String::from_utf8_lossy(&line).into_owned());
                    if words.len() > LINES {
                        words.pop_front();
                    }
                }
            });
        }
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let mut session = Self {
            child,
            group,
            socket: ours,
            inbox: Inbox::new(),
            within: trial.within,
            last_words,
            given: VecDeque::new(),
            answers: VecDeque::new(),
            hello: Hello {
                version: 0,
                pid: 0,
                tasks: Vec::new(),
                window: 0,
                descriptors: false,
            },
        };
        match session.next(trial.within)? {
            Frame::Hello(hello) => session.hello = hello,
            _ => return Err("it did not say hello first".into()),
        }
        Ok(session)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A reason, with what the child said last on standard error.
    fn because(&self, reason: impl std::fmt::Display) -> Why {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        if words.is_empty() {
            Why::Failed(reason.to_string())
        } else {
            Why::Failed(format!("{reason}; on standard error: {}", words.join(" | ")))
        }
    }

    /// Sends bytes as they are.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Tried {
        let sent = self
            .socket
            .set_write_timeout(Some(self.within))
            .and_then(|()| self.socket.write_all(bytes));
        sent.map_err(|error| self.because(format!("it does not read: {error}")))
    }

    pub(super) fn run(&mut self, jobs: &[(JobId, TaskName, Payload)]) -> Tried {
        self.given.extend(jobs.iter().map(|(job, ..)| *job));
        let jobs = jobs
            .iter()
            .map(|(job, task, args)| self::job(*job, task, inline(args)))
            .collect();
        self.send(&encoded(&Frame::Run(jobs))?)
    }

    /// The job's arguments come in a file.
    pub(super) fn run_by_descriptor(&mut self, job: JobId, task: &TaskName, args: &Payload) -> Tried {
        let file = shared::write(&args.bytes).map_err(|e| format!("no file could be made: {e}"))?;
        let carried = Carried {
            codec: args.codec,
            bytes: None,
            length: Some(args.bytes.len() as u64),
        };
        self.given.push_back(job);
        let mut outbox = Outbox::default();
        let frame = Frame::Run(vec![self::job(job, task, carried)]);
        outbox.push_with(&frame, file)?;
        let sent = outbox.send_all(&self.socket);
        sent.map_err(|error| self.because(format!("it does not read: {error}")))
    }

    /// The job's map has one more key, which nobody knows.
    pub(super) fn run_with_unknown_key(&mut self, (id, task, args): (JobId, TaskName, Payload)) -> Tried {
        self.given.push_back(id);
        let mut job = rmp_serde::to_vec_named(&self::job(id, &task, inline(&args)))?;
        // The head of a map says how many keys it has, up to fifteen.
        let Some(0x80..0x8f) = job.first() else {
            return fail("a job has too many keys for this check");
        };
        job[0] += 1;
        job.extend(b"\xa2zz\x92\x01\x81\xa1a\xc0");
        let body = [b"\x81\xa3run\x91", job.as_slice()].concat();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.send(&[length.as_slice(), &body].concat())
    }

    pub(super) fn cancel(&mut self, job: JobId) -> Tried {
        self.send(&encoded(&Frame::Cancel(Cancel { job }))?)
    }

    /// The next answer. What the child says of its jobs meanwhile is checked too.
    pub(super) fn answer(&mut self) -> Tried<Answered> {
        let until = Instant::now() + self.within;
        loop {
            if let Some(Done { job, end, .. }) = self.answers.pop_front() {
                self.expected(job, matches!(end, End::Back(())))?;
                return Ok(Answered { job, end });
            }
            match self.next(until.saturating_duration_since(Instant::now()))? {
                Frame::Done(done) => self.answers.extend(done),
                Frame::Log(said) => self.runs(said.job)?,
                Frame::Progress(said) => self.runs(said.job)?,
                _ => return Err("it sent a frame that only a worker sends, or a second hello".into()),
            }
        }
    }

    /// Only the first job that was not answered may be, but for those that had not begun.
    fn expected(&mut self, job: JobId, back: bool) -> Tried {
        match self.given.iter().position(|given| *given == job) {
            Some(at) if at == 0 || back => {
                self.given.remove(at);
                Ok(())
            }
            Some(_) => fail(format!("it answered job {job}, which was not the next")),
            None => fail(format!("it answered job {job}, which it did not hold")),
        }
    }

    fn runs(&self, job: JobId) -> Tried {
        if self.given.front() == Some(&job) {
            Ok(())
        } else {
            fail(format!("it spoke for job {job}, which does not run"))
        }
    }

    fn next(&mut self, within: Duration) -> Tried<Frame> {
        let until = Instant::now() + within;
        loop {
            if let Some(frame) = self.inbox.frame().map_err(|e| self.because(e))? {
                return Ok(frame);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.because(format!("it said nothing within {:?}", self.within)));
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.inbox.receive(&self.socket) {
                Ok(0) => return Err(self.because("it closed its standard input, or ended")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It did not read what was sent.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(self.because("it closed its standard input, or ended"));
                }
                Err(error) => return Err(self.because(error)),
            }
        }
    }

    /// The bytes of a result.
    pub(super) fn payload(&mut self, carried: Carried) -> Tried<Bytes> {
        let most = limits::RESULT_BYTES as u64;
        self.inbox.payload(carried, most).map_err(|e| self.because(e))
    }

    /// Ends the stream, as the end of a worker does.
    pub(super) fn hang_up(&self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// The child ends in time, and leaves nothing of its group behind.
    pub(super) fn ends(&mut self) -> Tried {
        let until = Instant::now() + self.within;
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => break,
                Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
                Ok(None) => return Err(self.because(format!("it has not ended within {:?}", self.within))),
                Err(error) => return Err(self.because(error)),
            }
        }
        while self.group.is_some_and(|group| tree::members(group) > 0) {
            if Instant::now() > until {
                return Err(self.because("it left a process of its group behind"));
            }
            std::thread::sleep(LOOK);
        }
        self.group = None;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // An error says that nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn inline(args: &Payload) -> Carried {
    Carried {
        codec: args.codec,
        bytes: Some(args.bytes.clone()),
        length: None,
    }
}

fn job(job: JobId, task: &TaskName, args: Carried) -> RunJob {
    RunJob {
        job,
        root: job,
        attempt: 1,
        fence: Fence {
            hand: 0,
            claim: 1,
            token: 7,
        },
        claimed: Timestamp::MIN_WIRE,
        task: task.clone(),
        args,
        soft_ms: None,
        deadline_ms: None,
    }
}

fn encoded(frame: &Frame) -> Tried<Vec<u8>> {
    let mut bytes = Vec::new();
    frame.append_to(&mut bytes)?;
    Ok(bytes)
}
