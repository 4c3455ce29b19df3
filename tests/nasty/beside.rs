//! Good jobs, one after the other, beside a nasty one.

use std::time::{Duration, Instant};

use millhand::Client;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::tasks::Good;

/// So many come before it, and after it.
const AROUND: usize = 5;

pub struct Beside {
    stop: oneshot::Sender<()>,
    waits: JoinHandle<Vec<Duration>>,
}

impl Beside {
    /// They run when this comes back.
    pub async fn start(client: Client) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let waits = tokio::spawn(async move {
            let mut waits = Vec::new();
            good(&client, &mut waits, AROUND).await;
            begun.send(()).unwrap();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                good(&client, &mut waits, 1).await;
            }
            good(&client, &mut waits, AROUND).await;
            waits
        });
        begins.await.unwrap();
        Self { stop, waits }
    }

    /// How long each took from enqueue to result, the shortest first.
    pub async fn stop(self) -> Vec<Duration> {
        self.stop.send(()).unwrap();
        let mut waits = self.waits.await.unwrap();
        waits.sort();
        waits
    }
}

async fn good(client: &Client, waits: &mut Vec<Duration>, count: usize) {
    for n in 0..count {
        let at = Instant::now();
        let good = client.enqueue(Good { n }).await.unwrap();
        assert_eq!(good.wait(PATIENCE).await.unwrap().unwrap(), n);
        waits.push(at.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
