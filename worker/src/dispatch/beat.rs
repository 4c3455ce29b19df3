//! What is done beside the loop every few seconds, each in a task of its own: the lease must not wait
//! for what cannot be done while RabbitMQ is away.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::limits;

use super::duty::Duty;
use super::{Bench, Dispatch};
use crate::crew::Event;

/// How long the look after long runs may keep the next beat waiting. What it does not come to now, it
/// comes to with the next.
const LOOK: Duration = limits::BEAT.checked_div(2).unwrap();

/// What may be under way beside the loop.
#[derive(Debug, Default)]
pub(super) struct Duties {
    beating: Duty,
    detaching: Duty,
    pub(super) listening: Duty,
    flushing: Duty,
}

impl Duties {
    pub(super) async fn end(&mut self) {
        let Self {
            beating,
            detaching,
            listening,
            flushing,
        } = self;
        for duty in [beating, detaching, listening, flushing] {
            duty.end().await;
        }
    }
}

impl Dispatch {
    /// Says that this worker lives, learns which queues are paused, and looks after long runs. All of
    /// it asks the store alone, and the beat itself has the limits that the store's answers have: to
    /// cut it short could leave half written what a store that lost its memory is told again.
    pub(super) fn beat(&mut self) {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        // What is leaked is neither a slot nor a run that ends.
        let busy = |b: &Bench| b.usable().saturating_sub(b.free);
        self.said.running = number(self.benches.values().map(busy).sum());
        self.said.slots = number(self.benches.values().map(Bench::usable).sum());
        self.said.health = self.say_health();
        self.said.progress = self.crew.progress();
        let (crew, events, said) = (Arc::clone(&self.crew), self.events.clone(), self.said.clone());
        self.duties.beating.begin(async move {
            match crew.backend.beat(said).await {
                Ok(paused) => drop(events.send(Event::Beaten(paused))),
                Err(error) => {
                    tracing::warn!(%error, "the beat failed");
                    let _ = events.send(Event::Unbeaten(error.to_string()));
                }
            }
            let looks = async { tokio::join!(crew.look_after_long_runs(), crew.renew()) };
            if tokio::time::timeout(LOOK, looks).await.is_err() {
                tracing::debug!("the store is slow; long runs are looked after with the next beat");
            }
        });
    }

    /// Lets go of the deliveries of long runs. RabbitMQ must take their watch copies: for as long as it
    /// is away this is under way.
    pub(super) fn detach(&mut self) {
        let crew = Arc::clone(&self.crew);
        self.duties
            .detaching
            .begin(async move { crew.detach_long_runs().await });
    }

    /// Writes what was counted; asks nothing when there is nothing to write.
    pub(super) fn flush(&mut self) {
        if !self.crew.tallies.is_empty() {
            let crew = Arc::clone(&self.crew);
            self.duties
                .flushing
                .begin(async move { crew.tallies.flush(&*crew.backend).await });
        }
    }
}
