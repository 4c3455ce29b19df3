//! One warm child: how it is started, and its ends of the socket and the pipes.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_proto::limits::{CHILD_JOBS, CHILD_START};
use millhand_proto::{CrashCause, JobId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use super::super::frames::{Frame, FrameError, VERSION};
use super::super::group::{Group, end, end_in_words};
use super::super::lines::Lines;
use super::super::socket::{Inbox, Outbox, registered};
use super::super::tree;
use crate::child::CHILD_VARIABLE;
use crate::log::{JobLog, Source};

/// How long the end, and the last words, of a child are waited for that closed its socket.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long a child that is not needed any more may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// For how long a child must have been without a job before it is looked whether it is still there.
const IDLE: Duration = Duration::from_millis(1);

/// Bytes that are read of a pipe before somebody else has a turn.
const CHUNK: usize = 16 << 10;

/// How children are started.
#[derive(Clone, Debug)]
pub(in super::super) struct ChildCommand {
    pub(in super::super) program: PathBuf,
    /// Shown as the child's name.
    pub(in super::super) arg0: Option<OsString>,
    pub(in super::super) args: Vec<OsString>,
}

impl ChildCommand {
    /// This program again, with its arguments.
    pub(in super::super) fn this_program() -> io::Result<Self> {
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
        })
    }

    /// Another program, which speaks the protocol.
    pub(in super::super) fn other(command: &Arc<[String]>) -> Self {
        let mut words = command.iter();
        Self {
            program: words.next().map(PathBuf::from).unwrap_or_default(),
            arg0: None,
            args: words.map(OsString::from).collect(),
        }
    }
}

/// A child that has said hello.
pub(super) struct Child {
    group: Group,
    /// Asked for what comes, not for what it takes.
    socket: AsyncFd<UnixStream>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    out: Pipe,
    err: Pipe,
    /// Jobs that it may hold at once.
    pub(super) window: usize,
    /// Whether it takes payloads by descriptor.
    pub(super) descriptors: bool,
    /// How long it took to start.
    pub(super) start: Duration,
    /// Jobs that it was given.
    pub(super) served: u32,
    /// With as many it is replaced.
    pub(super) lives: u32,
    /// The job that it answered last: a late word about it is nobody's.
    pub(super) last: Option<JobId>,
    /// When its memory was looked at last, between jobs.
    pub(super) weighed: Instant,
    /// With more memory than this it is replaced.
    pub(super) outgrows: Option<u64>,
    /// When it had answered all.
    rested: Instant,
    /// Since then jobs ended so soon that nobody looked for what they left behind.
    pub(super) unseen: Option<Instant>,
    /// It takes nothing any more.
    deaf: bool,
}

/// A pipe that the child writes lines to; `None` at its end.
struct Pipe {
    stream: Option<Receiver>,
    lines: Lines,
    chunk: Box<[u8]>,
}

impl Pipe {
    fn new(stream: impl Into<OwnedFd>, source: Source) -> io::Result<Self> {
        Ok(Self {
            stream: Some(Receiver::from_owned_fd(stream.into())?),
            lines: Lines::new(source),
            chunk: vec![0; CHUNK].into_boxed_slice(),
        })
    }

    /// Waits until there is something to read; for ever after the end.
    async fn readable(&self) {
        match &self.stream {
            Some(stream) if stream.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    /// Reads what is there, without waiting and past tokio's idea of what is there: it may not have
    /// heard of it yet. Whether there may be more.
    fn read(&mut self, log: &JobLog) -> bool {
        let Self { stream, lines, chunk } = self;
        let Some(pipe) = stream else { return false };
        // Through tokio's own call first, so that it learns when there is nothing left.
        let got = match pipe.try_read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                rustix::io::read(pipe.as_fd(), &mut **chunk).map_err(io::Error::from)
            }
            got => got,
        };
        match got {
            Ok(0) => *stream = None,
            Ok(count) => {
                lines.add(&chunk[..count], log);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => *stream = None,
        }
        false
    }
}

impl Child {
    /// Starts a child and waits for its hello; in words why there is none.
    pub(super) async fn start(command: &ChildCommand) -> Result<Self, String> {
        let started = Instant::now();
        let log = JobLog::default();
        let mut child = Self::spawn(command).map_err(|error| error.to_string())?;
        let hello = tokio::time::timeout(CHILD_START, child.next_while_printing(&log)).await;
        let why = match hello {
            Ok(Ok(Some(Frame::Hello(hello)))) if hello.version == VERSION => {
                child.start = started.elapsed();
                child.window = hello.window.clamp(1, CHILD_JOBS);
                child.descriptors = hello.descriptors;
                tracing::debug!(pid = hello.pid, tasks = hello.tasks.len(), start = ?child.start, "a child is ready");
                return Ok(child);
            }
            Ok(Ok(Some(Frame::Hello(hello)))) => {
                format!("it speaks version {} of the protocol, not {VERSION}", hello.version)
            }
            Ok(Ok(Some(_))) => "it did not say hello first".to_owned(),
            Ok(Ok(None)) => return Err(child.broken(None, &log).await.1),
            Ok(Err(error)) => return Err(child.broken(Some(error), &log).await.1),
            Err(_) => format!("it did not say hello within {CHILD_START:?}"),
        };
        child.kill().await;
        Err(why)
    }

    fn spawn(command: &ChildCommand) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut start = Command::new(&command.program);
        if let Some(arg0) = &command.arg0 {
            start.arg0(arg0);
        }
        start
            .args(&command.args)
            .env(CHILD_VARIABLE, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut group = Group::spawn(&mut start)?;
        let (Some(out), Some(err)) = (group.leader.stdout.take(), group.leader.stderr.take()) else {
            return Err(io::Error::other("the child has no standard streams"));
        };
        Ok(Self {
            group,
            socket: registered(ours, Interest::READABLE)?,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            out: Pipe::new(out.into_owned_fd()?, Source::Out)?,
            err: Pipe::new(err.into_owned_fd()?, Source::Err)?,
            window: 1,
            descriptors: false,
            start: Duration::ZERO,
            served: 0,
            lives: u32::MAX,
            outgrows: None,
            last: None,
            weighed: Instant::now(),
            rested: Instant::now(),
            unseen: None,
            deaf: false,
        })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.group.leader.id()
    }

    /// Processes that hang on it and live.
    pub(super) fn company(&mut self) -> usize {
        self.unseen = None;
        self.pid().map_or(0, tree::alive)
    }

    /// It has answered all that it was given, and has nothing to say until it is given more.
    pub(super) fn rests(&mut self) {
        self.rested = Instant::now();
        if self.inbox.is_empty() {
            // Tokio is told that there is nothing to read, as a read in vain would: one for each job.
            let nothing = |_: &UnixStream| Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, nothing);
        }
    }

    /// Whether its process ended while it had no job. Not looked at between jobs that follow each other.
    pub(super) fn died_idle(&mut self) -> bool {
        self.rested.elapsed() > IDLE && self.has_ended()
    }

    /// Whether its process has ended, as far as is known without waiting.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.group.leader.try_wait(), Ok(None))
    }

    async fn next_while_printing(&mut self, log: &JobLog) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.event().await {
                Heard::Frame(frame) => return frame,
                Heard::Printed => self.printed(log).await,
                Heard::Moved => {}
            }
        }
    }

    /// The next thing that the child does, or takes. May be dropped at any await.
    pub(super) async fn event(&mut self) -> Heard {
        // A frame that is here already needs no look at the socket.
        match self.inbox.frame() {
            Ok(None) => {}
            frame => return Heard::Frame(frame),
        }
        let Self {
            socket,
            inbox,
            outbox,
            out,
            err,
            deaf,
            ..
        } = self;
        let sending = !outbox.is_empty() && !*deaf;
        tokio::select! {
            biased;
            got = receive(socket, inbox) => match got {
                Ok(0) if inbox.is_empty() => Heard::Frame(Ok(None)),
                Ok(0) => Heard::Frame(Err(FrameError::Cut)),
                Ok(_) => match inbox.frame() {
                    Ok(None) => Heard::Moved,
                    frame => Heard::Frame(frame),
                },
                Err(error) => Heard::Frame(Err(error.into())),
            },
            sent = send(socket, outbox), if sending => match sent {
                // Its end, or its answer, is what to look at.
                Err(error) if is_gone(&error) => {
                    *deaf = true;
                    Heard::Moved
                }
                Err(error) => Heard::Frame(Err(error.into())),
                Ok(()) => Heard::Moved,
            },
            () = async { tokio::select! { () = out.readable() => {}, () = err.readable() => {} } } => Heard::Printed,
        }
    }

    /// Sends what the socket takes at once.
    pub(super) fn send_now(&mut self) {
        let Self {
            socket, outbox, deaf, ..
        } = self;
        if !*deaf {
            let sent = outbox.send(socket.get_ref());
            // What else is wrong is met again where it is waited for.
            *deaf = sent.is_err_and(|error| is_gone(&error));
        }
    }

    /// Takes in a piece of what the child printed; others have a turn then, lest a flood keeps them waiting.
    pub(super) async fn printed(&mut self, log: &JobLog) {
        self.out.read(log);
        self.err.read(log);
        tokio::task::yield_now().await;
    }

    /// Takes in all that the child printed before it answered.
    pub(super) fn printed_all(&mut self, log: &JobLog) {
        // As much as a pipe holds: more was printed later, and it may go on for ever.
        const TURNS: usize = (64 << 10) / CHUNK;
        let silent = self.is_silent();
        for pipe in [&mut self.out, &mut self.err] {
            if !silent {
                (0..TURNS).take_while(|_| pipe.read(log)).for_each(drop);
            }
            pipe.lines.finish(log);
        }
    }

    /// Whether nothing is in its pipes: one look for both, as most jobs print nothing.
    fn is_silent(&self) -> bool {
        let (Some(out), Some(err)) = (&self.out.stream, &self.err.stream) else {
            return false;
        };
        let mut looks = [out, err].map(|stream| PollFd::new(stream, PollFlags::IN));
        matches!(poll(&mut looks, Some(&Timespec::default())), Ok(0))
    }

    /// Kills the group.
    pub(super) async fn kill(&mut self) {
        self.group.kill().await;
    }

    /// Ends a child that is not needed any more.
    pub(super) async fn dismiss(mut self) {
        if self.unseen.is_some() && self.company() > 0 {
            // When it has ended, those that left its group are not found any more.
            return self.kill().await;
        }
        let Self { socket, group, .. } = &mut self;
        // Its standard input ends.
        let _ = rustix::net::shutdown(socket.get_ref().as_fd(), rustix::net::Shutdown::Both);
        let _ = tokio::time::timeout(FAREWELL, group.leader.wait()).await;
        group.kill().await;
    }

    /// Why the child broke, as a cause and in words; it is dead afterwards.
    pub(super) async fn broken(&mut self, reason: Option<FrameError>, log: &JobLog) -> (CrashCause, String) {
        let (cause, text) = match reason {
            Some(error) => {
                self.group.kill().await;
                let text = format!("the child process broke its protocol: {error}");
                (CrashCause::Protocol, text)
            }
            None => {
                // The stream ended: the process ends by itself, or only closed its socket.
                match tokio::time::timeout(LAST_WORDS, self.group.leader.wait()).await {
                    Ok(Ok(status)) => {
                        self.group.kill_rest();
                        let words = end_in_words(status);
                        let text = format!("the child process ended without an answer: {words}");
                        (end(status), text)
                    }
                    _ => {
                        self.group.kill().await;
                        let text = "the child process closed its socket without an answer";
                        (CrashCause::Closed, text.to_owned())
                    }
                }
            }
        };
        self.printed_all(log);
        (cause, log.after(&text))
    }
}

/// Whether the child's end of the socket is closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// What a child did.
pub(super) enum Heard {
    /// A frame, or the end.
    Frame(Result<Option<Frame>, FrameError>),
    /// There is something in its pipes.
    Printed,
    /// It took something, or a part of a frame came.
    Moved,
}

/// Reads what comes; 0 at the end of the stream.
async fn receive(socket: &AsyncFd<UnixStream>, inbox: &mut Inbox) -> io::Result<usize> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(got) = ready.try_io(|socket| inbox.receive(socket.get_ref())) {
            return got;
        }
    }
}

/// Sends once the socket takes something.
async fn send(socket: &AsyncFd<UnixStream>, outbox: &mut Outbox) -> io::Result<()> {
    // Asked for only here, where the socket is full: else the thread would be woken each time that the
    // child has read something, which is once for each job.
    let writable = registered(socket.get_ref().try_clone()?, Interest::WRITABLE)?;
    loop {
        let mut ready = writable.writable().await?;
        if let Ok(sent) = ready.try_io(|socket| outbox.send(socket.get_ref())) {
            return sent;
        }
    }
}
