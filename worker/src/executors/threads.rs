//! The thread executor: a fixed pool of named threads. A thread cannot be stopped from outside, so
//! a stop only sets the flag that the handler may look at.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millhand_proto::{Outcome, Payload};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use super::{Ended, GRACE, Run};
use crate::context::Context;
use crate::failure::panic_text;
use crate::registry::{Handled, SyncHandler};

pub(super) struct Threads {
    work: Sender<Work>,
    handles: Vec<JoinHandle<()>>,
}

struct Work {
    handler: SyncHandler,
    args: Payload,
    cx: Context,
    reply: oneshot::Sender<Reply>,
}

/// What the handler did, or the text of its panic; and its CPU time.
pub(crate) type Reply = (Result<Handled, String>, Duration);

impl Threads {
    pub(super) fn start(count: usize) -> std::io::Result<Self> {
        let (work, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let handles = (0..count)
            .map(|n| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("millhand-thread-{n}"))
                    .spawn(move || serve(&queue))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { work, handles })
    }

    pub(super) async fn run(&self, handler: &SyncHandler, run: &Run, cx: Context) -> Ended {
        let (reply, mut answer) = oneshot::channel();
        let work = Work {
            handler: Arc::clone(handler),
            args: run.args.clone(),
            cx: cx.clone(),
            reply,
        };
        if self.work.send(work).is_err() {
            return Ended::failed("no thread is left to run it");
        }
        // Raises the flag at the limit and never ends: only the handler decides.
        let flag_at_limit = async {
            run.timed_out().await;
            cx.cancel();
            std::future::pending::<Ended>().await
        };
        let given_up = async {
            run.stop.at_once.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let answer = tokio::select! {
            answer = &mut answer => answer,
            ended = flag_at_limit => return ended,
            // The handler runs on, without anybody who waits for it, until the process ends.
            () = given_up => return Ended::only(run.stop.outcome()),
        };
        let Ok((result, cpu)) = answer else {
            return Ended::failed("its thread ended under it");
        };
        let mut ended = match result {
            Ok(handled) => Ended::of(handled, Some(cpu), &cx),
            Err(panic) => Ended {
                cpu: Some(cpu),
                ..Ended::failed(panic)
            },
        };
        ended.outcome = match ended.outcome {
            Outcome::Failed { .. } if cx.deadline().is_some_and(|end| end <= Instant::now()) => {
                Outcome::TimedOut(run.hard.unwrap_or_default())
            }
            other => run.stop.explains(other),
        };
        ended
    }

    pub(super) async fn stop(self) {
        drop(self.work);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && !self.handles.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn serve(queue: &Mutex<Receiver<Work>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work {
            handler,
            args,
            cx,
            reply,
        }) = next
        else {
            return;
        };
        let _ = reply.send(guarded(&handler, args, cx));
    }
}

/// Runs the handler on this thread; a panic ends the job and nothing else.
pub(crate) fn guarded(handler: &SyncHandler, args: Payload, cx: Context) -> Reply {
    let before = cpu_time();
    let result = catch_unwind(AssertUnwindSafe(|| handler(args, cx))).map_err(|panic| panic_text(&*panic));
    (result, cpu_time().saturating_sub(before))
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}
