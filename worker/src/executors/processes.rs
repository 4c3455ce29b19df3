//! The process executor: warm children that speak the protocol of `docs/child-protocol.md`. Each
//! program has a pool of its own; all of them, and the commands, share the slots.

mod alarm;
mod child;
mod driver;
mod pool;
mod service;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

pub(super) use self::child::ChildCommand;
use self::pool::{Ask, Pool};
use super::{Ended, Run};
use crate::stop::Stop;

/// When a child is replaced by a new one, which is started before the old one ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycle {
    /// After about so many jobs: a tenth more or less, so that children do not go all at once.
    pub jobs: Option<u32>,
    /// When it still holds more bytes of memory than this after a job.
    pub memory: Option<u64>,
}

pub(super) struct Processes {
    this_program: Arc<Pool>,
    others: Mutex<HashMap<Arc<[String]>, Arc<Pool>>>,
    slots: Arc<Semaphore>,
    most: usize,
    recycle: Recycle,
}

impl Processes {
    /// Nothing is started before it is used.
    pub(super) fn new(this_program: ChildCommand, most: usize, recycle: Recycle) -> Self {
        let slots = Arc::new(Semaphore::new(most));
        Self {
            this_program: Pool::new(this_program, Arc::clone(&slots), most, recycle),
            others: Mutex::default(),
            slots,
            most,
            recycle,
        }
    }

    /// Runs a job in a child that is this program.
    pub(super) async fn run(&self, run: Run) -> Ended {
        give(&self.this_program, run).await
    }

    /// Runs a job in a child that is another program.
    pub(super) async fn run_in(&self, command: &Arc<[String]>, run: Run) -> Ended {
        let pool = {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || {
                let command = ChildCommand::other(command);
                Pool::new(command, Arc::clone(&self.slots), self.most, self.recycle)
            };
            Arc::clone(others.entry(Arc::clone(command)).or_insert_with(new))
        };
        give(&pool, run).await
    }

    /// The right to run a process that is no child; `None` only while the executor stops.
    pub(super) async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.acquire().await.ok()
    }

    /// Ends all children.
    pub(super) async fn stop(self) {
        let others = self.others.into_inner().unwrap_or_else(PoisonError::into_inner);
        for pool in std::iter::once(self.this_program).chain(others.into_values()) {
            pool.stop().await;
        }
    }
}

async fn give(pool: &Arc<Pool>, run: Run) -> Ended {
    let (reply, answer) = oneshot::channel();
    let stop = run.stop.clone();
    let outcome = stop.clone();
    let unheard = Unheard(Some(stop));
    pool.put(Ask::new(run, reply));
    let answer = answer.await;
    unheard.heard();
    // Without an answer the pool has stopped.
    answer.unwrap_or_else(|_| Ended::only(outcome.outcome()))
}

/// Stops the run when nobody waits for it any more.
struct Unheard(Option<Stop>);

impl Unheard {
    fn heard(mut self) {
        self.0 = None;
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(stop) = self.0.take() {
            stop.shutdown();
        }
    }
}
