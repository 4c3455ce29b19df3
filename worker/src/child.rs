//! The other side of the process executor: this program, started again to serve jobs as frames on
//! its standard input. It connects nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millhand_proto::{ErrorText, JobId, Outcome, Payload, limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpgrp, getpid, kill_process_group};

use crate::context::{Context, Facts, States};
use crate::executors::frames::{
    Carried, Done, End, Frame, FrameError, Hello, LogLine, Progress, RunJob, VERSION, micros,
};
use crate::executors::guarded;
use crate::executors::socket::{Inbox, Outbox};
use crate::log::{Said, Sink};
use crate::registry::{Handler, Registry};
use crate::stop::Stop;

/// Set in the environment of a child.
pub(crate) const CHILD_VARIABLE: &str = "MILLHAND_CHILD";

/// The stack of the thread that runs handlers: as much as a main thread has.
const STACK: usize = 8 << 20;

/// How often it is looked whether a job lasts.
const TICK: Duration = Duration::from_millis(5);

/// How long the socket is watched before it is looked whether the same job still runs.
const WATCH: Duration = Duration::from_millis(50);

/// How often the worker is told of progress, at the most.
const PROGRESS: Duration = Duration::from_millis(100);

/// Whether this process is a worker's child. What a child starts inherits the variable but not the
/// socket, and is none.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some_and(|value| value == "1") && socket().is_ok()
}

/// Serves jobs until the worker is gone, and ends the process then.
///
/// The thread that runs the handlers reads its jobs itself: a job costs no hand-over between threads.
/// While a job lasts, the calling thread reads in its place, so that a cancel is heard and the end of the
/// worker ends this process at once, whatever the handler does. Handlers do not run inside the runtime
/// that the caller may stand in: there they could not block on a future.
pub(crate) fn serve(registry: Arc<Registry>, states: Arc<States>) -> ! {
    crate::panics::remember();
    // What is wrong here is wrong in every child: the worker reads it from standard error.
    let Err(error) = try_serve(registry, states);
    fail(&error)
}

fn fail(error: &FrameError) -> ! {
    // Not through the standard library: `main` may hold its lock.
    let _ = rustix::io::write(std::io::stderr(), format!("millhand child: {error}\n").as_bytes());
    end(1)
}

/// Ends this process and what its handlers started, without running anything at exit: a handler
/// may be in the middle of something that waits for ever.
fn end(code: i32) -> ! {
    if getpid() == getpgrp() {
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    }
    std::process::exit(code)
}

fn socket() -> std::io::Result<UnixStream> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    Ok(socket)
}

/// What both threads use.
struct Line {
    socket: UnixStream,
    reading: Mutex<Reading>,
    outgoing: Mutex<Outbox>,
    running: Mutex<Option<(JobId, Stop)>>,
    /// The number of the job that runs; 0 between jobs.
    busy: AtomicU64,
    /// The watcher has nothing to watch.
    parked: AtomicBool,
}

struct Reading {
    inbox: Inbox,
    jobs: VecDeque<(RunJob, Bytes)>,
}

fn try_serve(registry: Arc<Registry>, states: Arc<States>) -> Result<Infallible, FrameError> {
    let socket = socket()?;
    // A process that a handler starts must not get the socket as its standard input.
    fcntl_setfd(std::io::stdin(), FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let line = Arc::new(Line {
        socket,
        reading: Mutex::new(Reading {
            inbox: Inbox::new(),
            jobs: VecDeque::new(),
        }),
        outgoing: Mutex::default(),
        running: Mutex::default(),
        busy: AtomicU64::new(0),
        parked: AtomicBool::new(false),
    });
    let tasks = registry
        .tasks()
        .filter(|(_, task)| matches!(task.handler, Handler::Process(_)));
    line.say(&Frame::Hello(Hello {
        version: VERSION,
        pid: std::process::id(),
        tasks: tasks.map(|(name, _)| name.clone()).collect(),
        window: limits::CHILD_JOBS,
        descriptors: true,
    }))?;
    let (server, watcher) = (Arc::clone(&line), std::thread::current());
    std::thread::Builder::new()
        .name("millhand-child".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let Err(error) = server.work(&registry, &states, &watcher);
            fail(&error)
        })?;
    line.watch()
}

impl Line {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<(JobId, Stop)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outbox> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame, blocking.
    fn say(&self, frame: &Frame) -> Result<(), FrameError> {
        let mut outgoing = self.outgoing();
        outgoing.push(frame)?;
        Ok(outgoing.send_all(&self.socket)?)
    }

    /// Runs one job after the other.
    fn work(
        self: &Arc<Self>,
        registry: &Registry,
        states: &Arc<States>,
        watcher: &Thread,
    ) -> Result<Infallible, FrameError> {
        let mut number = 0;
        loop {
            let (job, args) = self.next()?;
            let (id, stop) = (job.job, Stop::default());
            *self.running() = Some((id, stop.clone()));
            number += 1;
            self.busy.store(number, Ordering::SeqCst);
            if self.parked.swap(false, Ordering::SeqCst) {
                watcher.unpark();
            }
            // Big arguments are a map, which takes a while to go: not before the answer.
            let kept = args.clone();
            let done = run(registry, states, job, args, stop, self.sink(id));
            *self.running() = None;
            // Standard output is not flushed here: it ends lines by itself, and `main` may hold its lock.
            let mut outgoing = self.outgoing();
            outgoing.push(&Frame::Done(vec![done]))?;
            outgoing.send_all(&self.socket)?;
            drop(outgoing);
            drop(kept);
            // Until then the end of the worker is watched for.
            self.busy.store(0, Ordering::SeqCst);
        }
    }

    /// Where what the handler says goes to.
    fn sink(self: &Arc<Self>, job: JobId) -> Sink {
        let line = Arc::clone(self);
        let told = Mutex::new(None::<Instant>);
        Sink::Worker(Box::new(move |said| {
            let frame = match said {
                Said::Line(text) => Frame::Log(LogLine { job, text }),
                Said::Progress(progress) => {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    let soon = told.is_some_and(|at| at.elapsed() < PROGRESS);
                    if soon && progress.done < progress.total {
                        return;
                    }
                    *told = Some(Instant::now());
                    Frame::Progress(Progress {
                        job,
                        done: progress.done,
                        total: Some(progress.total),
                    })
                }
            };
            let mut outgoing = line.outgoing();
            // A thread of the handler may outlive the job: nobody listens then.
            if line.running().as_ref().is_some_and(|(running, _)| *running == job) {
                // A worker that is gone is noticed by who reads.
                let _ = outgoing
                    .push(&frame)
                    .and_then(|()| Ok(outgoing.send_all(&line.socket)?));
            }
        }))
    }

    /// The next job; waits for it.
    fn next(&self) -> Result<(RunJob, Bytes), FrameError> {
        let mut reading = self.reading();
        loop {
            if let Some(job) = reading.jobs.pop_front() {
                return Ok(job);
            }
            self.read(&mut reading)?;
        }
    }

    /// Reads what is there, blocking while there is nothing; does not come back from the end of the
    /// stream.
    fn read(&self, reading: &mut Reading) -> Result<(), FrameError> {
        let Reading { inbox, jobs } = reading;
        if inbox.receive(&self.socket)? == 0 {
            end(i32::from(!inbox.is_empty()))
        }
        while let Some(frame) = inbox.frame()? {
            match frame {
                Frame::Run(run) => {
                    for mut job in run {
                        let none = Carried {
                            codec: job.args.codec,
                            bytes: None,
                            length: None,
                        };
                        let carried = std::mem::replace(&mut job.args, none);
                        let args = inbox.trusted_payload(carried, limits::SHARED_BYTES as u64)?;
                        jobs.push_back((job, args));
                    }
                }
                Frame::Cancel(cancel) => {
                    let waiting = jobs.iter().position(|(job, _)| job.job == cancel.job);
                    if let Some(at) = waiting {
                        jobs.remove(at);
                        self.say(&Frame::Done(vec![Done::only(cancel.job, End::Back(()))]))?;
                    } else if let Some((job, stop)) = &*self.running()
                        && *job == cancel.job
                    {
                        stop.cancel();
                    }
                    // Else it has just ended; its answer is on the way.
                }
                Frame::Hello(_) | Frame::Done(_) | Frame::Log(_) | Frame::Progress(_) => {
                    return Err(FrameError::Unexpected);
                }
            }
        }
        Ok(())
    }

    /// Reads in the place of the thread that works, while a job lasts.
    fn watch(&self) -> Result<Infallible, FrameError> {
        let mut seen = 0;
        loop {
            std::thread::sleep(TICK);
            let busy = self.busy.load(Ordering::SeqCst);
            if busy == 0 && seen == 0 {
                self.parked.store(true, Ordering::SeqCst);
                // A job may have begun just before.
                while self.parked.load(Ordering::SeqCst) && self.busy.load(Ordering::SeqCst) == 0 {
                    std::thread::park();
                }
                self.parked.store(false, Ordering::SeqCst);
            }
            if busy != 0 && busy == seen {
                self.look()?;
            }
            seen = busy;
        }
    }

    /// Waits a little for what comes, and reads it unless the other thread does.
    fn look(&self) -> Result<(), FrameError> {
        let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
        let wait = Timespec::try_from(WATCH).ok();
        let ready = rustix::io::retry_on_intr(|| poll(&mut watched, wait.as_ref())).map_err(std::io::Error::from)?;
        if ready > 0
            && let Ok(mut reading) = self.reading.try_lock()
        {
            // The other thread may have taken it meanwhile: reading would block then, with the lock.
            let now = Timespec::default();
            let mut again = [PollFd::new(&self.socket, PollFlags::IN)];
            let ready = rustix::io::retry_on_intr(|| poll(&mut again, Some(&now))).map_err(std::io::Error::from)?;
            if ready > 0 {
                self.read(&mut reading)?;
            }
        }
        Ok(())
    }
}

fn run(registry: &Registry, states: &Arc<States>, job: RunJob, args: Bytes, stop: Stop, sink: Sink) -> Done {
    let id = job.job;
    let deadline = job
        .deadline_ms
        .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
    let Some(Handler::Process(handler)) = registry.get(&job.task).map(|task| &task.handler) else {
        let error = format!("the child does not know task {}", job.task);
        return Done::only(id, End::failed(error));
    };
    let facts = Facts {
        job: id,
        root: job.root,
        task: job.task,
        attempt: job.attempt,
        fence: job.fence,
        claimed: job.claimed,
        deadline,
    };
    let cx = Context::new(facts, stop, Arc::clone(states), sink);
    let args = Payload {
        codec: job.args.codec,
        bytes: args,
    };
    let started = Instant::now();
    let (result, cpu) = guarded(handler, args, cx.clone());
    let cpu = micros(cpu);
    match result {
        // The result goes by the socket: it is no longer than what that carries faster.
        Ok(handled) => Done {
            run: micros(handled.run),
            encode: micros(handled.encode),
            cpu: Some(cpu),
            children: cx.take_children().iter().map(|parcel| parcel.encode().into()).collect(),
            ..Done::only(id, End::of(bounded(handled.outcome)))
        },
        Err(error) => Done {
            run: micros(started.elapsed()),
            cpu: Some(cpu),
            ..Done::only(id, End::failed(error))
        },
    }
}

/// A result that is too big ends the job here: its frame might be too long as well.
fn bounded(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Succeeded(result) if result.bytes.len() > limits::RESULT_BYTES => Outcome::Fatal {
            reason: "result_too_big".to_owned(),
            error: ErrorText::new(format!(
                "the result has {} bytes, more than {}",
                result.bytes.len(),
                limits::RESULT_BYTES
            )),
        },
        other => other,
    }
}
