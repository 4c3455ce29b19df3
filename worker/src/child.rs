//! The other side of the process executor: this program, started again to serve jobs as frames on
//! its standard input. It connects nothing.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millhand_proto::{ErrorText, JobId, Outcome, limits};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Facts, States};
use crate::executors::frames::{Answer, Done, Frame, FrameError, Hello, RunFrame, VERSION, micros};
use crate::executors::guarded;
use crate::registry::{Handler, Registry};

/// Set in the environment of a child.
pub(crate) const CHILD_VARIABLE: &str = "MILLHAND_CHILD";

/// The stack of the thread that runs handlers: as much as a main thread has.
const STACK: usize = 8 << 20;

/// Whether this process is a worker's child. What a child starts inherits the variable but not the
/// socket, and is none.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some_and(|value| value == "1") && socket().is_ok()
}

/// Serves jobs until the worker is gone, and ends the process then.
///
/// Frames are read on the calling thread, so that the end of the worker ends this process at once,
/// whatever the handler does. Handlers run on a thread of their own and not inside the runtime that
/// the caller may stand in: there they could not block on a future.
pub(crate) fn serve(registry: Arc<Registry>, states: Arc<States>) -> ! {
    crate::panics::remember();
    // What is wrong here is wrong in every child: the worker reads it from standard error.
    let Err(error) = try_serve(registry, states);
    eprintln!("millhand child: {error}");
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

type Running = Arc<Mutex<HashMap<JobId, CancellationToken>>>;

fn try_serve(registry: Arc<Registry>, states: Arc<States>) -> Result<Infallible, FrameError> {
    let mut incoming = socket()?;
    // A process that a handler starts must not get the socket as its standard input.
    fcntl_setfd(std::io::stdin(), FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let mut outgoing = incoming.try_clone()?;
    let tasks = registry
        .tasks()
        .filter(|(_, task)| matches!(task.handler, Handler::Process(_)));
    let tasks = tasks.map(|(name, _)| name.clone()).collect();
    Frame::Hello(Hello {
        version: VERSION,
        pid: std::process::id(),
        tasks,
    })
    .write_to(&mut outgoing)?;

    let running = Running::default();
    let (jobs, queue) = channel::<(RunFrame, CancellationToken)>();
    let known = Arc::clone(&running);
    std::thread::Builder::new()
        .name("millhand-child".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            for (frame, cancelled) in queue {
                let job = frame.job;
                let done = run(&registry, &states, frame, cancelled);
                known.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
                if let Err(error) = Frame::Done(done).write_to(&mut outgoing) {
                    eprintln!("millhand child: {error}");
                    end(1);
                }
            }
        })?;
    read(&mut incoming, &jobs, &running)
}

/// Hands jobs over until the stream ends.
fn read(
    incoming: &mut UnixStream,
    jobs: &Sender<(RunFrame, CancellationToken)>,
    running: &Running,
) -> Result<Infallible, FrameError> {
    while let Some(frame) = Frame::read_from(incoming)? {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        match frame {
            Frame::Run(run) => {
                let cancelled = CancellationToken::new();
                running.insert(run.job, cancelled.clone());
                if jobs.send((run, cancelled)).is_err() {
                    break;
                }
            }
            // A job that has just ended is no longer known; its answer is on the way.
            Frame::Cancel(cancel) => {
                if let Some(token) = running.get(&cancel.job) {
                    token.cancel();
                }
            }
            // Only a child says these.
            Frame::Hello(_) | Frame::Done(_) => break,
        }
    }
    end(0)
}

fn run(registry: &Registry, states: &Arc<States>, frame: RunFrame, cancelled: CancellationToken) -> Done {
    let job = frame.job;
    let deadline = frame
        .deadline_ms
        .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
    let Some(Handler::Process(handler)) = registry.get(&frame.task).map(|task| &task.handler) else {
        let error = format!("the child does not know task {}", frame.task);
        return Done {
            job,
            answer: Answer::Failed {
                error,
                retry_in_ms: None,
            },
            run: 0,
            encode: 0,
            cpu: None,
            children: Vec::new(),
        };
    };
    let facts = Facts {
        job,
        root: frame.root,
        task: frame.task,
        attempt: frame.attempt,
        fence: frame.fence,
        claimed: frame.claimed,
        deadline,
    };
    let cx = Context::new(facts, cancelled, Arc::clone(states));
    let (result, cpu) = guarded(handler, frame.args, cx.clone());
    let cpu = micros(cpu);
    match result {
        Ok(handled) => {
            let (run, encode) = (micros(handled.run), micros(handled.encode));
            let children = cx.take_children().iter().map(|parcel| parcel.encode().into()).collect();
            Done {
                job,
                answer: Answer::of(bounded(handled.outcome)),
                run,
                encode,
                cpu: Some(cpu),
                children,
            }
        }
        Err(error) => {
            let answer = Answer::Failed {
                error,
                retry_in_ms: None,
            };
            Done {
                job,
                answer,
                run: cpu,
                encode: 0,
                cpu: Some(cpu),
                children: Vec::new(),
            }
        }
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
