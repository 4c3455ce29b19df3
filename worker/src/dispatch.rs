//! The loop: deliveries come in, free slots get jobs, mail and beats are seen to.

mod beat;
mod duty;
mod health;
mod idle;
mod open;
mod silence;
mod stop;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_broker::{Backend, Delivery, Flow, Mail, Release, Verdict, WorkerBeat};
use millhand_proto::protocol::must_split;
use millhand_proto::{QueueName, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::beat::Duties;
use crate::attempt::{attempt, settlement};
use crate::context::States;
use crate::crew::{Crew, Event, Slot};
use crate::executors::Recycle;
use crate::health::Board;
use crate::registry::{Executor, Registry};
use crate::room::{Pace, Room, Waiting};
use crate::tally::FLUSH;
use crate::worker::{Slots, WorkerError};

/// How often the room is looked at for jobs that wait too long.
const ROOM_LOOK: Duration = Duration::from_millis(250);

/// What a worker is to do.
pub(crate) struct Plan {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) slots: Slots,
    pub(crate) recycle: Recycle,
    pub(crate) grace: Duration,
    pub(crate) block_limit: Duration,
    pub(crate) registry: Arc<Registry>,
    pub(crate) states: Arc<States>,
    /// Where async tasks run, if not on a runtime of their own.
    pub(crate) tasks: Option<tokio::runtime::Handle>,
    /// Where the loop says how it is.
    pub(crate) board: Board,
}

/// How long a worker runs.
pub(crate) enum Until {
    /// Until this comes.
    Told(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Until nothing is left to do.
    Idle,
}

impl Until {
    /// Resolves when the worker is told to stop.
    async fn told(&mut self) {
        match self {
            Self::Told(shutdown) => shutdown.await,
            Self::Idle => std::future::pending().await,
        }
    }
}

/// One executor's slots and pace.
#[derive(Debug, Default)]
struct Bench {
    slots: usize,
    free: usize,
    /// Slots in use whose jobs were asked to end and do not.
    leaked: usize,
    pace: Pace,
    /// Its jobs waited too long: deliveries are held until half of the slots are free.
    held: bool,
}

/// One queue's consumer.
struct Tap {
    flow: watch::Sender<Flow>,
    paused: bool,
    /// When something came last.
    came: tokio::time::Instant,
    /// What came and could not be read.
    unreadable: watch::Receiver<u64>,
    /// Why nothing can come.
    trouble: Option<String>,
    /// Nothing comes, and why it is not known whether anything should.
    unasked: Option<String>,
}

/// The loop's own state. Nothing here is shared: attempts speak to it by events.
pub(crate) struct Dispatch {
    crew: Arc<Crew>,
    benches: HashMap<Executor, Bench>,
    room: Room,
    taps: HashMap<QueueName, Tap>,
    /// Attempts under way.
    under_way: usize,
    /// Jobs on their way back into the queue, unclaimed.
    going_back: usize,
    /// When a delivery came last.
    delivered: Instant,
    /// When a beat was answered last.
    beaten: Option<Instant>,
    /// Why the last one was not.
    unbeaten: Option<String>,
    /// It was said that a task blocks the async executor.
    blocked: bool,
    board: Board,
    /// Jobs per parcel, in the mean, times 16.
    parcel_jobs: usize,
    said: WorkerBeat,
    duties: Duties,
    events: mpsc::UnboundedSender<Event>,
}

/// What the loop listens to.
struct Ears {
    inbox: mpsc::UnboundedReceiver<Event>,
    /// Closed until the mailbox is opened.
    mails: mpsc::Receiver<Mail>,
    beats: tokio::time::Interval,
    probes: tokio::time::Interval,
    leaks: watch::Receiver<usize>,
}

impl Bench {
    /// Slots that jobs can have.
    fn usable(&self) -> usize {
        self.slots.saturating_sub(self.leaked)
    }

    /// Jobs to hold in advance.
    fn room(&self) -> usize {
        self.pace.room(self.usable())
    }
}

impl Dispatch {
    pub(crate) async fn run(plan: Plan, mut until: Until, abandoned: CancellationToken) -> Result<(), WorkerError> {
        let grace = plan.grace;
        let until_idle = matches!(until, Until::Idle);
        let (mut this, mut ears) = Self::new(plan)?;
        let whole = async {
            this.open(&mut ears).await?;
            this.work(&mut ears, until_idle).await
        };
        // Also who is still at its start has deliveries in hands, and is known as a worker.
        let ended = tokio::select! {
            ended = whole => ended,
            () = until.told() => Ok(()),
            () = abandoned.cancelled() => Ok(()),
        };
        let grace = if abandoned.is_cancelled() {
            Duration::ZERO
        } else {
            grace
        };
        this.stop(ears, grace).await;
        ended
    }

    /// Takes and runs jobs, until something ends it or, if `until_idle`, nothing is left to do.
    async fn work(&mut self, ears: &mut Ears, until_idle: bool) -> Result<(), WorkerError> {
        let mut flushes = tokio::time::interval(FLUSH);
        let mut looks = tokio::time::interval(ROOM_LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_waiting();
            tokio::select! {
                Some(event) = ears.inbox.recv() => {
                    self.see(event)?;
                    // What came meanwhile is seen before slots are given away.
                    while let Ok(event) = ears.inbox.try_recv() {
                        self.see(event)?;
                    }
                }
                Some(mail) = ears.mails.recv() => self.read_mail(mail),
                _ = ears.beats.tick() => {
                    self.beat();
                    self.detach();
                    self.listen();
                }
                _ = flushes.tick() => self.flush(),
                _ = ears.probes.tick(), if self.runs_async() || self.blocked => self.look(),
                Ok(()) = ears.leaks.changed() => self.leaks(*ears.leaks.borrow_and_update()),
                _ = looks.tick(), if !self.room.is_empty() || until_idle => self.release_overdue(),
            }
            if until_idle && self.is_quiet() && self.nothing_left().await? {
                return Ok(());
            }
        }
    }

    /// Gives every free slot a waiting job.
    fn start_waiting(&mut self) {
        for executor in Executor::ALL {
            let Some(bench) = self.benches.get_mut(&executor) else {
                continue;
            };
            while bench.free > 0 {
                let Some(job) = self.room.next(executor, bench.free, bench.usable(), Instant::now()) else {
                    break;
                };
                bench.free -= job.slots;
                let slot = Slot::new(executor, job.slots, self.events.clone());
                self.under_way += 1;
                spawn(Arc::clone(&self.crew), job, Some(slot), self.events.clone());
            }
            if bench.held && bench.free * 2 >= bench.usable() && !self.room.gathers(executor) {
                bench.held = false;
                self.set_flows();
            }
        }
    }

    fn see(&mut self, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Delivered(delivery) => self.delivered(*delivery),
            Event::Freed(executor, slots, ran) => {
                let Some(bench) = self.benches.get_mut(&executor) else {
                    return Ok(());
                };
                bench.free += slots;
                if let Some(ran) = ran {
                    let before = bench.room();
                    bench.pace.ran(ran);
                    let after = bench.room();
                    // Told only of real changes: each wakes the consumers.
                    if after > before * 2 || after * 2 < before {
                        self.set_flows();
                    }
                }
            }
            Event::Over => self.under_way -= 1,
            Event::Back => self.going_back -= 1,
            Event::Again(job) => self.place(*job),
            Event::Beaten(paused) => {
                (self.beaten, self.unbeaten) = (Some(Instant::now()), None);
                self.pause(&paused);
                self.say_health();
            }
            Event::Unbeaten(why) => {
                self.unbeaten = Some(why);
                self.say_health();
            }
            Event::Trouble(queue, trouble) => {
                if let Some(tap) = self.taps.get_mut(&queue) {
                    tap.trouble = trouble;
                }
                self.say_health();
            }
            Event::Looked(queue, unasked) => {
                if let Some(tap) = self.taps.get_mut(&queue) {
                    tap.unasked = unasked;
                }
                self.say_health();
            }
            Event::Silent(queue) => {
                // Something may have come while it was looked.
                if self.silent().contains(&queue) {
                    return Err(WorkerError::Silent(queue));
                }
            }
            Event::Ended(queue) => return Err(WorkerError::Ended(queue)),
        }
        Ok(())
    }

    fn delivered(&mut self, delivery: Delivery) {
        let Delivery {
            id,
            parcel,
            redeliveries,
            ready_at,
            taken_at,
        } = delivery;
        let arrived_at: Timestamp = self.crew.backend.now();
        self.delivered = Instant::now();
        let split = must_split(&parcel, redeliveries);
        self.parcel_jobs = (self.parcel_jobs * 15 + parcel.jobs().len() * 16) / 16;
        if let Some(tap) = self.taps.get_mut(parcel.queue()) {
            tap.came = tokio::time::Instant::now();
        }
        for copy in parcel.into_jobs() {
            let job = Waiting {
                delivery: id,
                copy,
                ready_at,
                taken_at,
                arrived_at,
                since: Instant::now(),
                slots: 1,
            };
            if split {
                self.hand_back(vec![job], Release::Alone);
            } else if self.taps.get(&job.copy.core.queue).is_some_and(|tap| tap.paused) {
                self.hand_back(vec![job], Release::Now);
            } else {
                self.place(job);
            }
        }
    }

    /// Gives a job its place in the room.
    fn place(&mut self, job: Waiting) {
        match self.crew.registry.get(&job.copy.core.task) {
            Some(task) if self.benches.get(&task.executor).is_some_and(|b| b.slots > 0) => {
                let slots = task.slots;
                self.room.put(task.executor, Waiting { slots, ..job });
            }
            // Not known here: it learns so without a slot.
            _ => {
                self.under_way += 1;
                spawn(Arc::clone(&self.crew), job, None, self.events.clone());
            }
        }
    }

    /// Puts unclaimed jobs back into their queue.
    fn hand_back(&mut self, jobs: Vec<Waiting>, how: Release) {
        for job in jobs {
            let crew = Arc::clone(&self.crew);
            let back = Over(self.events.clone(), || Event::Back);
            self.going_back += 1;
            tokio::spawn(async move {
                crew.settle(&settlement(&job, Verdict::Release(how))).await;
                drop(back);
            });
        }
    }

    /// No job waits behind long ones while another worker idles: after a second it goes back.
    fn release_overdue(&mut self) {
        let now = Instant::now();
        for executor in Executor::ALL {
            let usable = self.benches.get(&executor).map_or(0, Bench::usable);
            let late = self.room.overdue(executor, usable, now);
            if late.is_empty() {
                continue;
            }
            tracing::debug!(%executor, jobs = late.len(), "no slot within a second; jobs go back");
            if let Some(bench) = self.benches.get_mut(&executor) {
                bench.held = true;
            }
            self.set_flows();
            self.hand_back(late, Release::Now);
        }
    }

    /// Unsettled parcels that each consumer may deliver: the slots and the room, in parcels.
    fn prefetch(&self) -> usize {
        let jobs: usize = self
            .benches
            .values()
            .filter(|b| !b.held)
            // Those that are leaked too: their jobs still hold their deliveries.
            .map(|b| b.slots + b.room())
            .sum();
        (jobs * 16 / self.parcel_jobs.max(16)).max(1)
    }

    fn set_flows(&self) {
        let held = self.benches.values().any(|b| b.held);
        let open = Flow::Open(self.prefetch());
        for tap in self.taps.values() {
            let flow = if tap.paused || held { Flow::Held } else { open };
            tap.flow.send_if_modified(|now| {
                let changed = *now != flow;
                *now = flow;
                changed
            });
        }
    }

    fn read_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Cancel(id) => self.crew.cancel(id),
            Mail::Control | Mail::Lost => self.beat(),
            Mail::Ended(_) => {}
        }
    }

    fn pause(&mut self, queues: &[QueueName]) {
        let mut changed = false;
        for (queue, tap) in &mut self.taps {
            let pause = queues.contains(queue);
            changed |= tap.paused != pause;
            tap.paused = pause;
        }
        if changed {
            self.set_flows();
            let back = self.room.take(|queue| queues.contains(queue));
            self.hand_back(back, Release::Now);
        }
    }
}

/// Says that something is over, also when it panicked.
struct Over(mpsc::UnboundedSender<Event>, fn() -> Event);

impl Drop for Over {
    fn drop(&mut self) {
        let _ = self.0.send(self.1());
    }
}

fn spawn(crew: Arc<Crew>, job: Waiting, slot: Option<Slot>, events: mpsc::UnboundedSender<Event>) {
    let over = Over(events, || Event::Over);
    tokio::spawn(async move {
        if let Some(job) = attempt(crew, job, slot).await {
            let _ = over.0.send(Event::Again(Box::new(job)));
        }
        drop(over);
    });
}
