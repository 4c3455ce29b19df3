//! Good jobs, one after the other, beside a nasty one.

use std::time::{Duration, Instant};

use millhand::Client;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::held;
use crate::tasks::Good;

/// So many come before it, and after it.
const AROUND: usize = 5;

pub struct Beside {
    stop: oneshot::Sender<()>,
    seen: JoinHandle<Seen>,
}

/// What was seen of them, and of the worker meanwhile.
#[derive(Default)]
pub struct Seen {
    /// How long each took from enqueue to result, the shortest first.
    pub waits: Vec<Duration>,
    /// The most memory that the worker held, in bytes.
    pub memory: usize,
}

impl Beside {
    /// They run when this comes back.
    pub async fn start(client: Client) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let seen = tokio::spawn(async move {
            let mut seen = Seen::default();
            seen.run(&client, AROUND).await;
            begun.send(()).unwrap();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                seen.run(&client, 1).await;
            }
            seen.run(&client, AROUND).await;
            seen.waits.sort();
            seen
        });
        begins.await.unwrap();
        Self { stop, seen }
    }

    pub async fn stop(self) -> Seen {
        self.stop.send(()).unwrap();
        self.seen.await.unwrap()
    }
}

impl Seen {
    pub async fn run(&mut self, client: &Client, count: usize) {
        for n in 0..count {
            let at = Instant::now();
            let good = client.enqueue(Good { n }).await.unwrap();
            assert_eq!(good.wait(PATIENCE).await.unwrap().unwrap(), n);
            self.waits.push(at.elapsed());
            self.memory = self.memory.max(held::memory());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn median(&self) -> Duration {
        self.waits[self.waits.len() / 2]
    }

    pub fn longest(&self) -> Duration {
        self.waits.last().copied().unwrap_or_default()
    }
}
