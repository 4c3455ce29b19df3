//! A driver keeps one child warm and gives it the pool's jobs, until none comes for a long time.

use std::sync::Arc;
use std::time::Instant;

use millhand_proto::limits;
use tokio::task::JoinHandle;

use super::super::{Ended, LOOK_LAZILY};
use super::alarm::Alarm;
use super::child::Child;
use super::pool::{Ask, Next, Pool};
use super::service::Service;
use crate::stop::Step;

/// Serves jobs until none comes for a long time, or the pool stops.
pub(super) async fn drive(pool: Arc<Pool>) {
    let mut driver = Driver {
        pool,
        warm: None,
        renewal: Renewal::default(),
        alarm: Alarm::new(),
    };
    while let Some(ask) = driver.next().await {
        driver.serve(ask).await;
    }
    if let Some(child) = driver.warm {
        child.dismiss().await;
    }
    driver.pool.dismiss_spare().await;
}

struct Driver {
    pool: Arc<Pool>,
    warm: Option<Child>,
    renewal: Renewal,
    alarm: Alarm,
}

impl Driver {
    /// The next job; `None` when the driver has left the pool.
    async fn next(&mut self) -> Option<Ask> {
        let leave = Instant::now() + limits::CHILD_IDLE;
        loop {
            let unseen = self.warm.as_ref().and_then(|child| child.unseen);
            let look = unseen.map(|since| since + LOOK_LAZILY);
            let until = look.map_or(leave, |look| look.min(leave));
            match self.pool.next(until, &mut self.alarm).await {
                Next::Job(ask) => return Some(ask),
                Next::Due if Instant::now() < leave => self.end_company().await,
                Next::Due | Next::Over => {
                    if self.pool.leave() {
                        return None;
                    }
                }
            }
        }
    }

    /// Ends a child that a job left in company.
    async fn end_company(&mut self) {
        if let Some(mut child) = self.warm.take_if(|child| child.company() > 0) {
            let pid = child.pid();
            tracing::warn!(pid, "a job left processes behind; they end with its child");
            child.kill().await;
        }
    }

    async fn serve(&mut self, ask: Ask) {
        let pool = Arc::clone(&self.pool);
        let Ok(_slot) = pool.slots.acquire().await else { return };
        let alone = ask.run.suspect;
        if self.warm.as_mut().is_some_and(Child::died_idle) {
            // It died while it was idle, which is no job's fault.
            self.warm = None;
        }
        if ask.run.memory.is_some() && self.warm.as_ref().is_some_and(|child| child.unseen.is_some()) {
            // What another job left is not to be weighed with this one.
            self.end_company().await;
        }
        self.renewal.swap(&pool, &mut self.warm).await;
        // A suspect must not meet what another job left behind, nor the other way round.
        let (child, start) = match self.warm.take_if(|_| !alone) {
            Some(child) => (child, None),
            None => {
                let asked = Instant::now();
                let fresh = tokio::select! {
                    child = pool.fresh() => child,
                    () = ask.run.stop.reaches(Step::Asked) => Err(String::new()),
                    () = pool.stopping.cancelled() => Err(String::new()),
                };
                match fresh {
                    Ok(child) => (child, Some(asked.elapsed())),
                    Err(_) if ask.run.stop.is(Step::Asked) => {
                        let outcome = ask.run.stop.outcome();
                        return ask.answer(Ended::only(outcome));
                    }
                    // Nobody answers: the run is interrupted.
                    Err(_) if pool.stopping.is_cancelled() => return,
                    Err(why) => {
                        let text = format!("no child process could be started: {why}");
                        return ask.answer(Ended::failed(text));
                    }
                }
            }
        };
        let service = Service::new(&pool, child, &mut self.renewal, &mut self.alarm);
        match service.serve(ask, start).await {
            // Beside the driver, which is free for the next job at once.
            Some(child) if alone => drop(pool.tasks.spawn(child.dismiss())),
            kept => self.warm = kept,
        }
    }
}

/// A child's successor, started while the child still works.
#[derive(Default)]
pub(super) struct Renewal(Option<JoinHandle<Result<Child, String>>>);

impl Renewal {
    pub(super) fn begin(&mut self, pool: &Arc<Pool>) {
        if self.0.is_none() {
            let pool = Arc::clone(pool);
            self.0 = Some(tokio::spawn(async move { pool.fresh().await }));
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Puts the successor, if it is ready, in the place of the child.
    async fn swap(&mut self, pool: &Pool, warm: &mut Option<Child>) {
        if !self.is_ready() {
            return;
        }
        let Some(started) = self.0.take() else { return };
        match started.await {
            Ok(Ok(successor)) => {
                if let Some(old) = warm.replace(successor) {
                    pool.tasks.spawn(old.dismiss());
                }
            }
            Ok(Err(why)) => tracing::warn!(why, "a child could not be replaced by a new one; it goes on"),
            Err(_) => {}
        }
    }
}
