//! The children of one program: jobs wait in one line, and each child has a driver that takes from it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Ended, Run, tree};
use super::alarm::Alarm;
use super::child::{Child, ChildCommand};
use super::{Recycle, driver};

/// A job for a child, and who waits for its end.
pub(super) struct Ask {
    pub(super) run: Run,
    reply: oneshot::Sender<Ended>,
    /// Children that were gone before they had it.
    pub(super) missed: u32,
    /// Bytes that its child must have been sent before it can have begun.
    pub(super) sent_at: u64,
}

impl Ask {
    pub(super) fn new(run: Run, reply: oneshot::Sender<Ended>) -> Self {
        Self {
            run,
            reply,
            missed: 0,
            sent_at: u64::MAX,
        }
    }

    pub(super) fn answer(self, ended: Ended) {
        // Nobody waits any more: the run was dropped.
        let _ = self.reply.send(ended);
    }
}

/// What a driver without a job has to do.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub(super) enum Next {
    Job(Ask),
    /// The time has come until which it waited.
    Due,
    /// The pool stops.
    Over,
}

pub(super) struct Pool {
    command: ChildCommand,
    pub(super) slots: Arc<Semaphore>,
    most: usize,
    pub(super) recycle: Recycle,
    state: Mutex<State>,
    work: Notify,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    line: VecDeque<Ask>,
    drivers: usize,
    /// Drivers without a job.
    waiting: usize,
    /// A child that has not had a job yet.
    spare: Option<Child>,
    spare_starts: bool,
}

impl Pool {
    pub(super) fn new(command: ChildCommand, slots: Arc<Semaphore>, most: usize, recycle: Recycle) -> Arc<Self> {
        Arc::new(Self {
            command,
            slots,
            most: most.max(1),
            recycle,
            state: Mutex::default(),
            work: Notify::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(self: &Arc<Self>, ask: Ask) {
        let mut state = self.state();
        state.line.push_back(ask);
        self.see_to(state);
    }

    /// Gives back jobs that did not begin: they are the next.
    pub(super) fn put_back(self: &Arc<Self>, asks: impl DoubleEndedIterator<Item = Ask>) {
        let mut state = self.state();
        for ask in asks.rev() {
            state.line.push_front(ask);
        }
        self.see_to(state);
    }

    fn see_to(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.line.len() > state.waiting && state.drivers < self.most {
            state.drivers += 1;
            self.tasks.spawn(driver::drive(Arc::clone(self)));
        } else {
            self.work.notify_one();
        }
    }

    /// The next job for a driver that has none.
    pub(super) async fn next(&self, until: Instant, alarm: &mut Alarm) -> Next {
        loop {
            {
                let mut state = self.state();
                if self.stopping.is_cancelled() {
                    return Next::Over;
                }
                if let Some(ask) = state.line.pop_front() {
                    return Next::Job(ask);
                }
                if Instant::now() >= until {
                    return Next::Due;
                }
                state.waiting += 1;
            }
            alarm.set(until);
            tokio::select! {
                () = self.work.notified() => {}
                () = alarm.rings() => {}
                () = self.stopping.cancelled() => {}
            }
            self.state().waiting -= 1;
        }
    }

    /// A driver without a job leaves, unless one has just come for it.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.state();
        let leaves = state.line.is_empty() || self.stopping.is_cancelled();
        if leaves {
            state.drivers -= 1;
        }
        leaves
    }

    /// Another job for a driver that has some, if nobody else is there to take it.
    pub(super) fn more(&self, fits: impl Fn(&Run) -> bool) -> Option<Ask> {
        let mut state = self.state();
        let take = state.waiting == 0 && state.line.front().is_some_and(|ask| fits(&ask.run));
        take.then(|| state.line.pop_front()).flatten()
    }

    /// A child that has had no job: the spare, or a new one. Another spare is started then.
    pub(super) async fn fresh(self: &Arc<Self>) -> Result<Child, String> {
        let mut spare = self.state().spare.take();
        let mut child = match spare.take_if(|child| !child.has_ended()) {
            Some(child) => child,
            None => Child::start(&self.command).await?,
        };
        self.keep_a_spare();
        child.lives = self.lives();
        child.outgrows = self.recycle.memory.filter(|most| {
            let held = child.pid().and_then(tree::resident).unwrap_or(0);
            if held > *most {
                // Each would be replaced after its first job, for ever.
                tracing::warn!(
                    held,
                    most,
                    "a new child holds more memory than one may keep; it is not replaced for that"
                );
            }
            held <= *most
        });
        Ok(child)
    }

    /// After how many jobs a child is replaced.
    fn lives(&self) -> u32 {
        let Some(jobs) = self.recycle.jobs else { return u32::MAX };
        let spread = u64::from(jobs / 5) + 1;
        let less = u32::try_from(crate::crew::random() % spread).unwrap_or(0);
        (jobs + jobs / 10).saturating_sub(less).max(1)
    }

    fn keep_a_spare(self: &Arc<Self>) {
        let mut state = self.state();
        if state.spare.is_some() || state.spare_starts || self.stopping.is_cancelled() {
            return;
        }
        state.spare_starts = true;
        drop(state);
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            let child = tokio::select! {
                child = Child::start(&pool.command) => child,
                () = pool.stopping.cancelled() => return,
            };
            let mut state = pool.state();
            state.spare_starts = false;
            match child {
                Ok(child) => state.spare = Some(child),
                // The next job that needs one learns why.
                Err(why) => tracing::debug!(why, "no spare child could be started"),
            }
        });
    }

    /// When the last driver has left, the spare goes too.
    pub(super) async fn dismiss_spare(&self) {
        let spare = {
            let mut state = self.state();
            (state.drivers == 0).then(|| state.spare.take()).flatten()
        };
        if let Some(child) = spare {
            child.dismiss().await;
        }
    }

    pub(super) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let (spare, line) = {
            let mut state = self.state();
            (state.spare.take(), std::mem::take(&mut state.line))
        };
        drop(line);
        if let Some(mut child) = spare {
            child.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::run;
    use super::*;

    #[tokio::test]
    async fn a_driver_does_not_leave_a_job_that_has_just_come() {
        let command: Arc<[String]> = Arc::from(["/no/such/program".to_owned()]);
        let pool = Pool::new(
            ChildCommand::other(&command),
            Arc::new(Semaphore::new(1)),
            1,
            Recycle::default(),
        );
        pool.state().drivers = 1;
        let (reply, _answer) = oneshot::channel();
        let args = millhand_proto::Payload::encode(&1).unwrap();
        // All drivers are there already: none is started for it.
        pool.put(Ask::new(run("t", args), reply));
        assert_eq!(pool.state().drivers, 1);
        assert!(!pool.leave(), "nobody else would run it");
        let next = pool.next(Instant::now(), &mut Alarm::new()).await;
        assert!(matches!(next, Next::Job(_)));
        assert!(pool.leave());
        assert_eq!(pool.state().drivers, 0);
    }
}
