//! How a worker is, as it can be asked at any moment without asking a back end or the worker's loop.

use std::time::{Duration, Instant};

use millhand_broker::WorkerHealth;
use millhand_proto::limits;
use tokio::sync::watch;

/// The loop says something at least with every beat; one that says nothing for so long hangs.
const SILENT: Duration = limits::LEASE;

/// What a worker's loop said last of itself.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    at: Option<Instant>,
    health: WorkerHealth,
}

/// Where the loop says it.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Said>);

impl Default for Board {
    fn default() -> Self {
        let health = WorkerHealth {
            not_ready: vec!["it has not started yet".to_owned()],
            ..WorkerHealth::default()
        };
        Self(watch::Sender::new(Said { at: None, health }))
    }
}

impl Board {
    pub(crate) fn say(&self, health: WorkerHealth) {
        let at = Some(Instant::now());
        self.0.send_replace(Said { at, health });
    }

    pub(crate) fn reader(&self) -> Health {
        Health(self.0.subscribe())
    }
}

/// How a worker is: whether it is ready, and why not. It can be asked at any moment, also while every task
/// is stuck or the back end is away: an answer waits for nothing. Clones ask the same worker.
#[derive(Clone, Debug)]
pub struct Health(watch::Receiver<Said>);

impl Health {
    /// What the worker's loop said last; it says so with every beat, and when it is no longer ready.
    #[must_use]
    pub fn now(&self) -> WorkerHealth {
        let Said { at, mut health } = self.0.borrow().clone();
        if let Some(silent) = at.map(|at| at.elapsed()).filter(|silent| *silent > SILENT) {
            let over = self.0.has_changed().is_err();
            let why = if over { "it has ended" } else { "its loop does not move" };
            health.not_ready.push(format!("{why}, for {} s", silent.as_secs()));
        }
        health
    }

    /// Whether the worker is ready for work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.now().not_ready.is_empty()
    }

    /// Waits until the loop says something new; `false` when it has ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_from_when_it_says_so_and_an_answer_takes_no_time() {
        let board = Board::default();
        let health = board.reader();
        assert_eq!(health.now().not_ready, ["it has not started yet"]);
        board.say(WorkerHealth::default());
        assert!(health.is_ready());
        let asked = Instant::now();
        for _ in 0..1000 {
            std::hint::black_box(health.now());
        }
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[test]
    fn a_loop_that_says_nothing_is_not_ready() {
        let board = Board::default();
        let health = board.reader();
        let Some(at) = Instant::now().checked_sub(SILENT * 2) else {
            return;
        };
        let said = || Said {
            at: Some(at),
            health: WorkerHealth::default(),
        };
        board.0.send_replace(said());
        assert_eq!(health.now().not_ready, ["its loop does not move, for 30 s"]);
        drop(board);
        assert_eq!(health.now().not_ready, ["it has ended, for 30 s"]);
    }
}
