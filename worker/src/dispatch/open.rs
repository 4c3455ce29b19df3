//! How a worker starts.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_broker::{Error, Subscription, WorkerBeat, WorkerHealth};
use millhand_proto::{Mailbox, WorkerId, limits};
use tokio::sync::mpsc;

use super::beat::Duties;
use super::{Bench, Dispatch, Ears, Plan, Tap};
use crate::crew::{Crew, Event};
use crate::executors::lag::PROBE;
use crate::executors::{Executors, Sizes};
use crate::registry::Executor;
use crate::room::Room;
use crate::worker::WorkerError;

/// Tasks that a beat names.
const NAMED: usize = 100;

/// How many jobs may have ended and not be remembered yet.
pub(super) fn window(slots: usize) -> usize {
    slots.saturating_mul(4).clamp(1, limits::SETTLE_WINDOW)
}

impl Dispatch {
    /// Starts the executors. The back end does not hear of it yet.
    pub(super) fn new(plan: Plan) -> Result<(Self, Ears), WorkerError> {
        let me: WorkerId = Mailbox::from_random(*uuid::Uuid::new_v4().as_bytes());
        let slots = plan.slots;
        let sizes = Sizes {
            asyncs: slots.asyncs,
            threads: slots.threads,
            processes: slots.processes,
            recycle: plan.recycle,
        };
        let executors = Executors::start(
            Arc::clone(&plan.registry),
            sizes,
            plan.tasks,
            plan.block_limit,
            plan.states,
        )?;
        let leaks = executors.leaked();
        let mut benches = HashMap::new();
        for (executor, slots) in [
            (Executor::Async, slots.asyncs),
            (Executor::Thread, slots.threads),
            (Executor::Process, slots.processes),
        ] {
            let slots = if plan.registry.uses(executor) { slots } else { 0 };
            benches.insert(
                executor,
                Bench {
                    slots,
                    free: slots,
                    ..Bench::default()
                },
            );
        }
        let all: usize = benches.values().map(|b| b.slots).sum();
        let window = window(all);
        let crew = Arc::new(Crew::new(
            Arc::clone(&plan.backend),
            me,
            plan.registry,
            executors,
            window,
        ));
        let (events, inbox) = mpsc::unbounded_channel();
        let tasks: Vec<_> = crew
            .registry
            .tasks()
            .map(|(name, _)| name.clone())
            .take(NAMED)
            .collect();
        let said = WorkerBeat {
            worker: me,
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "localhost".into(), |h| h.trim().to_owned()),
            pid: std::process::id(),
            started: plan.backend.now(),
            queues: plan.queues,
            tasks,
            slots: u32::try_from(all).unwrap_or(u32::MAX),
            running: 0,
            progress: Vec::new(),
            health: WorkerHealth::default(),
        };
        let this = Self {
            crew,
            benches,
            room: Room::default(),
            taps: HashMap::new(),
            under_way: 0,
            going_back: 0,
            delivered: Instant::now(),
            beaten: None,
            unbeaten: None,
            blocked: false,
            board: plan.board,
            parcel_jobs: 16,
            said,
            duties: Duties::default(),
            events,
        };
        let ears = Ears {
            inbox,
            mails: mpsc::channel(1).1,
            beats: tokio::time::interval(limits::BEAT),
            probes: probes(),
            leaks,
        };
        Ok((this, ears))
    }

    /// Starts the consumers, which make this process known as a worker, and opens its mailbox.
    pub(super) async fn open(&mut self, ears: &mut Ears) -> Result<(), WorkerError> {
        let backend = Arc::clone(&self.crew.backend);
        let me = self.crew.me;
        let prefetch = self.prefetch();
        for queue in self.said.queues.clone() {
            let subscription = Subscription {
                worker: me,
                queue: queue.clone(),
                prefetch,
            };
            let mut consumer = self.reached(|| backend.consume(subscription.clone())).await?;
            let events = self.events.clone();
            let name = queue.clone();
            tokio::spawn(async move {
                while let Some(delivery) = consumer.deliveries.recv().await {
                    if events.send(Event::Delivered(Box::new(delivery))).is_err() {
                        return;
                    }
                }
                let _ = events.send(Event::Ended(name));
            });
            let (events, name) = (self.events.clone(), queue.clone());
            tokio::spawn(async move {
                while consumer.trouble.changed().await.is_ok() {
                    let trouble = consumer.trouble.borrow_and_update().clone();
                    if events.send(Event::Trouble(name.clone(), trouble)).is_err() {
                        return;
                    }
                }
            });
            self.taps.insert(
                queue,
                Tap {
                    flow: consumer.flow,
                    paused: false,
                    came: tokio::time::Instant::now(),
                    unreadable: consumer.unreadable,
                    trouble: None,
                    unasked: None,
                },
            );
        }
        ears.mails = self.reached(|| backend.watch(me)).await?;
        ears.beats.reset_immediately();
        self.say_health();
        Ok(())
    }

    /// Asks until the servers can be reached: a worker may be there before them.
    async fn reached<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut wait = Duration::from_millis(100);
        let mut said = String::new();
        loop {
            match ask().await {
                Err(error @ Error::Unreachable { .. }) => {
                    let why = error.to_string();
                    // Once for each reason, though it is asked every other second.
                    if said != why {
                        tracing::warn!(%error, "the worker waits for its servers");
                    }
                    self.board.waits(&why);
                    said = why;
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(2));
                }
                answer => return answer,
            }
        }
    }
}

fn probes() -> tokio::time::Interval {
    let mut probes = tokio::time::interval(PROBE);
    probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    probes
}
