//! The thread executor: a fixed pool of named threads. A thread cannot be stopped from outside, so
//! a stop only sets the flag that the handler may look at. A thread whose job does not look is *leaked*:
//! it is counted, and comes back when the job ends after all.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use millhand_proto::{Outcome, Payload, TimeLimit, limits};
use tokio::sync::{oneshot, watch};

use super::meter::cpu_time;
use super::{Ended, GRACE, Run};
use crate::context::Context;
use crate::panics;
use crate::registry::{Handled, SyncHandler};
use crate::stop::Step;

pub(super) struct Threads {
    work: Sender<Work>,
    handles: Vec<JoinHandle<()>>,
    /// Slots whose jobs were asked to end and did not.
    leaked: watch::Sender<usize>,
}

/// Slots are leaked until it is dropped.
struct Leak<'t>(&'t watch::Sender<usize>, usize);

impl<'t> Leak<'t> {
    fn of(leaked: &'t watch::Sender<usize>, slots: usize) -> Self {
        leaked.send_modify(|all| *all += slots);
        Self(leaked, slots)
    }
}

impl Drop for Leak<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|all| *all -= self.1);
    }
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
        let (work, line) = crossbeam_channel::unbounded();
        let handles = (0..count).map(|n| {
            let line = line.clone();
            let thread = thread::Builder::new().name(format!("millhand-thread-{n}"));
            thread.spawn(move || serve(&line))
        });
        Ok(Self {
            work,
            handles: handles.collect::<Result<_, _>>()?,
            leaked: watch::Sender::new(0),
        })
    }

    /// Slots whose threads are leaked, and word when their number changes.
    pub(super) fn leaked(&self) -> watch::Receiver<usize> {
        self.leaked.subscribe()
    }

    /// Takes so many slots.
    pub(super) async fn run(&self, handler: &SyncHandler, slots: usize, run: &Run, cx: Context) -> Ended {
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
        // Raises the flag at the limit: only the handler decides.
        let flag_at_limit = async {
            run.timed_out().await;
            run.stop.tell();
        };
        let leak = async {
            cx.cancelled().await;
            let asked = Instant::now();
            tokio::time::sleep(limits::LEAK_AFTER).await;
            tracing::warn!(task = %run.task, job = %run.job, asked = ?asked.elapsed(), "the job does not end although it was asked to, and a thread cannot be stopped: its slot is leaked until it ends");
            let _leak = Leak::of(&self.leaked, slots);
            std::future::pending::<()>().await;
        };
        let asking = async { tokio::join!(run.soften(), flag_at_limit, leak).0 };
        let given_up = async {
            run.stop.reaches(Step::AtOnce).await;
            tokio::time::sleep(GRACE).await;
        };
        let answer = tokio::select! {
            answer = &mut answer => answer,
            never = asking => match never {},
            () = given_up => {
                tracing::warn!(task = %run.task, job = %run.job, "the job's thread did not end: it runs on until this process ends, and may do so beside the job's next run");
                return Ended::only(run.stop.outcome());
            }
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
                Outcome::TimedOut(TimeLimit::Hard(run.hard.unwrap_or_default()))
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

/// A thread that has ended a job looks for the next for a few microseconds before it sleeps: to be woken
/// costs more.
fn serve(line: &Receiver<Work>) {
    for Work {
        handler,
        args,
        cx,
        reply,
    } in line
    {
        let _ = reply.send(guarded(&handler, args, cx));
    }
}

/// Runs the handler on this thread; a panic ends the job and nothing else.
pub(crate) fn guarded(handler: &SyncHandler, args: Payload, cx: Context) -> Reply {
    let before = cpu_time();
    let result = panics::catch(|| handler(args, cx));
    let spent = cpu_time().saturating_sub(before);
    (result.map_err(|caught| caught.text()), spent)
}
