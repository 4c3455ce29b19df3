//! Whether this worker is deaf: jobs are ready, slots are free, and its consumer brings nothing.

use std::sync::Arc;
use std::time::Duration;

use millhand_broker::Error;
use millhand_proto::QueueName;
use tokio::time::Instant;

use super::{Bench, Dispatch, Tap};
use crate::crew::{Crew, Event};

/// After so long without a delivery it is looked.
const SILENCE: Duration = Duration::from_secs(60);
/// After this the jobs are still there.
const SILENCE_AGAIN: Duration = Duration::from_secs(3);

impl Dispatch {
    /// Looks after queues that are silent.
    pub(super) fn listen(&mut self) {
        for tap in self.taps.values_mut().filter(|tap| tap.hears_strangers()) {
            tap.unreadable.mark_unchanged();
            tap.came = Instant::now();
        }
        let silent = self.silent();
        if silent.is_empty() {
            return;
        }
        let (crew, events) = (Arc::clone(&self.crew), self.events.clone());
        self.duties.listening.begin(async move {
            for queue in silent {
                let _ = events.send(match jobs_stay_away(&crew, &queue).await {
                    Ok(true) => Event::Silent(queue),
                    Ok(false) => Event::Looked(queue, None),
                    Err(error) => Event::Looked(queue, Some(error.to_string())),
                });
            }
        });
    }

    /// Queues from which nothing came for long, though all slots are free.
    pub(super) fn silent(&self) -> Vec<QueueName> {
        let busy = |bench: &Bench| bench.free < bench.slots || bench.held;
        // What cannot be settled still holds its delivery, and RabbitMQ gives no more than the prefetch.
        let full = self.under_way + self.going_back >= self.prefetch();
        if full || !self.room.is_empty() || self.benches.values().any(busy) {
            return Vec::new();
        }
        // One that knows why nothing comes is not deaf, and starting it again would not help.
        let silent =
            |tap: &Tap| !tap.paused && tap.trouble.is_none() && tap.came.elapsed() > SILENCE && !tap.hears_strangers();
        self.taps
            .iter()
            .filter(|(_, tap)| silent(tap))
            .map(|(queue, _)| queue.clone())
            .collect()
    }
}

impl Tap {
    /// Something came that cannot be read since it was last asked for.
    fn hears_strangers(&self) -> bool {
        self.unreadable.has_changed().unwrap_or_default()
    }
}

/// Some of a queue's jobs are ready, and still are when they had time to come.
async fn jobs_stay_away(crew: &Crew, queue: &QueueName) -> Result<bool, Error> {
    for wait in [SILENCE_AGAIN, Duration::ZERO] {
        if crew.backend.pending(vec![queue.clone()]).await?.ready == 0 {
            return Ok(false);
        }
        tokio::time::sleep(wait).await;
    }
    Ok(true)
}
