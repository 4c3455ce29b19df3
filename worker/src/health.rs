//! How a worker is, as it can be asked at any moment without asking a back end or the worker's loop.

mod http;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use millhand_broker::WorkerHealth;
use millhand_proto::limits;
use tokio::sync::watch;

pub(crate) use self::http::answer_at;

/// The loop says something at least with every beat; one that says nothing for so long hangs.
const SILENT: Duration = limits::LEASE;

/// What is said until it has.
const NOT_STARTED: &str = "it has not started yet";

/// What a worker's loop said last of itself.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    at: Option<Instant>,
    health: WorkerHealth,
    /// It said once that it is ready.
    was_ready: bool,
    /// Where it answers over HTTP.
    address: Option<SocketAddr>,
}

/// Where the loop says it.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Said>);

impl Default for Board {
    fn default() -> Self {
        let health = WorkerHealth {
            not_ready: vec![NOT_STARTED.to_owned()],
            ..WorkerHealth::default()
        };
        Self(watch::Sender::new(Said {
            at: None,
            health,
            was_ready: false,
            address: None,
        }))
    }
}

impl Board {
    pub(crate) fn say(&self, health: WorkerHealth) {
        self.0.send_modify(|said| {
            said.at = Some(Instant::now());
            said.was_ready |= health.not_ready.is_empty();
            said.health = health;
        });
    }

    /// What it waits for before it starts.
    pub(crate) fn waits(&self, why: &str) {
        self.0
            .send_modify(|said| said.health.not_ready = vec![format!("{NOT_STARTED}: {why}")]);
    }

    fn answers_at(&self, address: SocketAddr) {
        self.0.send_modify(|said| said.address = Some(address));
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
        let mut health = self.0.borrow().health.clone();
        health.not_ready.extend(self.hangs());
        health
    }

    /// That the loop does not move, if it does not. One that starts waits for its servers, and does not hang.
    fn hangs(&self) -> Option<String> {
        let silent = self.0.borrow().at?.elapsed();
        let over = self.0.has_changed().is_err();
        let why = if over { "it has ended" } else { "its loop does not move" };
        (silent > SILENT).then(|| format!("{why}, for {} s", silent.as_secs()))
    }

    /// Whether the worker is ready for work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.now().not_ready.is_empty()
    }

    /// Where the worker answers over HTTP, from when it does: see
    /// [`Worker::health_at`](crate::Worker::health_at).
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.borrow().address
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
        board.say(WorkerHealth::default());
        board.0.send_modify(|said| said.at = Some(at));
        assert_eq!(health.now().not_ready, ["its loop does not move, for 30 s"]);
        drop(board);
        assert_eq!(health.now().not_ready, ["it has ended, for 30 s"]);
    }
}
