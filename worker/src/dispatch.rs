//! The loop: deliveries come in, free slots get jobs, mail and beats are seen to.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_broker::{Backend, Delivery, Error, Flow, Mail, Release, Subscription, Verdict, WorkerBeat};
use millhand_proto::protocol::must_split;
use millhand_proto::{Mailbox, QueueName, Timestamp, WorkerId, limits};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::attempt::{attempt, settlement};
use crate::context::States;
use crate::crew::{Crew, Event, Slot};
use crate::executors::{Executors, Sizes};
use crate::registry::{Executor, Registry};
use crate::room::{Pace, Room, Waiting};
use crate::tally::FLUSH;
use crate::worker::{Slots, WorkerError};

/// How often the room is looked at for jobs that wait too long.
const ROOM_LOOK: Duration = Duration::from_millis(250);

/// How long a delivery may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// A worker with free slots to which nothing came for so long looks whether it is deaf: whether
/// jobs are ready that its consumer does not bring.
const SILENCE: Duration = Duration::from_secs(60);
/// After this they are still there.
const SILENCE_AGAIN: Duration = Duration::from_secs(3);

/// How long interrupted jobs may take to be given back. A worker that is told to stop stops, even
/// if the back end takes nothing more: its deliveries come again.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Tasks that a beat names.
const NAMED: usize = 100;

/// What a worker is to do.
pub(crate) struct Plan {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) slots: Slots,
    pub(crate) grace: Duration,
    pub(crate) registry: Arc<Registry>,
    pub(crate) states: Arc<States>,
    /// Where async tasks run.
    pub(crate) tasks: tokio::runtime::Handle,
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
    pace: Pace,
    /// Its jobs waited too long: deliveries are held until half of the slots are free.
    held: bool,
}

/// One queue's consumer.
struct Tap {
    flow: watch::Sender<Flow>,
    paused: bool,
    /// When something came last.
    came: Instant,
}

/// The loop's own state. Nothing here is shared: attempts speak to it by events.
pub(crate) struct Dispatch {
    crew: Arc<Crew>,
    benches: HashMap<Executor, Bench>,
    room: Room,
    taps: HashMap<QueueName, Tap>,
    /// Attempts under way.
    under_way: usize,
    /// When a delivery came last.
    delivered: Instant,
    /// Jobs per parcel, in the mean, times 16.
    parcel_jobs: usize,
    beat: WorkerBeat,
    /// The beat that is under way, or was last.
    beating: Option<tokio::task::JoinHandle<()>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Dispatch {
    pub(crate) async fn run(plan: Plan, mut until: Until, abandoned: CancellationToken) -> Result<(), WorkerError> {
        let grace = plan.grace;
        let idle = matches!(until, Until::Idle);
        let (mut this, mut inbox, mut mails) = tokio::select! {
            opened = Self::open(plan) => opened?,
            () = until.told() => return Ok(()),
            () = abandoned.cancelled() => return Ok(()),
        };
        let mut beats = tokio::time::interval(limits::BEAT);
        let mut flushes = tokio::time::interval(FLUSH);
        let mut looks = tokio::time::interval(ROOM_LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = loop {
            this.start_waiting();
            tokio::select! {
                event = inbox.recv() => {
                    let Some(event) = event else { break Ok(()) };
                    if let Err(error) = this.see(event).await {
                        break Err(error);
                    }
                    // What came meanwhile is seen before slots are given away.
                    let mut seen = Ok(());
                    while seen.is_ok() && let Ok(event) = inbox.try_recv() {
                        seen = this.see(event).await;
                    }
                    if let Err(error) = seen {
                        break Err(error);
                    }
                    if idle && this.is_quiet() {
                        match this.nothing_left().await {
                            Ok(false) => {}
                            ended => break ended.map(drop),
                        }
                    }
                }
                mail = mails.recv() => this.read_mail(mail),
                _ = beats.tick() => this.beat(),
                _ = flushes.tick() => this.flush(),
                _ = looks.tick(), if !this.room.is_empty() || idle => {
                    this.release_overdue();
                    if idle && this.is_quiet() {
                        match this.nothing_left().await {
                            Ok(false) => {}
                            ended => break ended.map(drop),
                        }
                    }
                }
                () = until.told() => break Ok(()),
                () = abandoned.cancelled() => break Ok(()),
            }
        };
        this.stop(
            inbox,
            mails,
            if abandoned.is_cancelled() {
                Duration::ZERO
            } else {
                grace
            },
        )
        .await;
        ended
    }

    async fn open(plan: Plan) -> Result<(Self, mpsc::UnboundedReceiver<Event>, mpsc::Receiver<Mail>), WorkerError> {
        let me: WorkerId = Mailbox::from_random(*uuid::Uuid::new_v4().as_bytes());
        let slots = plan.slots;
        let sizes = Sizes {
            asyncs: slots.asyncs,
            threads: slots.threads,
            processes: slots.processes,
        };
        let executors = Executors::start(Arc::clone(&plan.registry), sizes, plan.tasks, plan.states)?;
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
        let window = (4 * all).clamp(1, limits::SETTLE_WINDOW);
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
        let beat = WorkerBeat {
            worker: me,
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "localhost".into(), |h| h.trim().to_owned()),
            pid: std::process::id(),
            started: plan.backend.now(),
            queues: plan.queues.clone(),
            tasks,
            slots: u32::try_from(all).unwrap_or(u32::MAX),
            running: 0,
        };
        let mut this = Self {
            crew,
            benches,
            room: Room::default(),
            taps: HashMap::new(),
            under_way: 0,
            delivered: Instant::now(),
            parcel_jobs: 16,
            beat,
            beating: None,
            events,
        };
        // The consumers make this process known as a worker before its mailbox is opened.
        let prefetch = this.prefetch();
        for queue in plan.queues {
            let subscription = Subscription {
                worker: me,
                queue: queue.clone(),
                prefetch,
            };
            let mut consumer = reached(|| plan.backend.consume(subscription.clone())).await?;
            let events = this.events.clone();
            let name = queue.clone();
            tokio::spawn(async move {
                while let Some(delivery) = consumer.deliveries.recv().await {
                    if events.send(Event::Delivered(Box::new(delivery))).is_err() {
                        return;
                    }
                }
                let _ = events.send(Event::Deaf(name));
            });
            this.taps.insert(
                queue,
                Tap {
                    flow: consumer.flow,
                    paused: false,
                    came: Instant::now(),
                },
            );
        }
        let mails = reached(|| plan.backend.watch(me)).await?;
        this.beat();
        Ok((this, inbox, mails))
    }

    /// Gives every free slot a waiting job.
    fn start_waiting(&mut self) {
        for executor in Executor::ALL {
            let Some(bench) = self.benches.get_mut(&executor) else {
                continue;
            };
            while bench.free > 0 {
                let Some(job) = self.room.next(executor) else { break };
                bench.free -= 1;
                let slot = Slot::new(executor, self.events.clone());
                self.under_way += 1;
                spawn(Arc::clone(&self.crew), job, Some(slot), self.events.clone());
            }
            if bench.held && bench.free * 2 >= bench.slots {
                bench.held = false;
                self.set_flows();
            }
        }
    }

    async fn see(&mut self, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Delivered(delivery) => self.delivered(*delivery).await,
            Event::Freed(executor, ran) => {
                let Some(bench) = self.benches.get_mut(&executor) else {
                    return Ok(());
                };
                bench.free += 1;
                if let Some(ran) = ran {
                    let before = bench.pace.room(bench.slots);
                    bench.pace.ran(ran);
                    let after = bench.pace.room(bench.slots);
                    // Told only of real changes: each wakes the consumers.
                    if after > before * 2 || after * 2 < before {
                        self.set_flows();
                    }
                }
            }
            Event::Over => self.under_way -= 1,
            Event::Again(job) => self.place(*job),
            Event::Beaten(paused) => self.pause(&paused),
            Event::Silent(queue) => {
                // Something may have come while it was looked.
                if self.silent().contains(&queue) {
                    return Err(WorkerError::Deaf(queue));
                }
            }
            Event::Deaf(queue) => return Err(WorkerError::Deaf(queue)),
        }
        Ok(())
    }

    async fn delivered(&mut self, delivery: Delivery) {
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
            tap.came = Instant::now();
        }
        for copy in parcel.into_jobs() {
            let job = Waiting {
                delivery: id,
                copy,
                ready_at,
                taken_at,
                arrived_at,
                since: Instant::now(),
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
        let executor = self.crew.registry.get(&job.copy.core.task).map(|task| task.executor);
        match executor {
            Some(executor) if self.benches.get(&executor).is_some_and(|b| b.slots > 0) => {
                self.room.put(executor, job);
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
            let over = Over(self.events.clone());
            self.under_way += 1;
            tokio::spawn(async move {
                crew.settle(settlement(&job, Verdict::Release(how))).await;
                drop(over);
            });
        }
    }

    /// No job waits behind long ones while another worker idles: after a second it goes back.
    fn release_overdue(&mut self) {
        let now = Instant::now();
        for executor in Executor::ALL {
            let late = self.room.overdue(executor, now);
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
            .map(|b| b.slots + b.pace.room(b.slots))
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

    fn read_mail(&mut self, mail: Option<Mail>) {
        match mail {
            Some(Mail::Cancel(id)) => self.crew.cancel(id),
            Some(Mail::Control | Mail::Lost) => self.beat(),
            Some(Mail::Ended(_)) | None => {}
        }
    }

    /// Says that this worker lives, learns which queues are paused, and looks after long runs:
    /// beside the loop, which goes on when the store does not answer.
    fn beat(&mut self) {
        if self.beating.as_ref().is_some_and(|beat| !beat.is_finished()) {
            return;
        }
        let busy: usize = self.benches.values().map(|b| b.slots - b.free.min(b.slots)).sum();
        self.beat.running = u32::try_from(busy).unwrap_or(u32::MAX);
        let (crew, events, beat) = (Arc::clone(&self.crew), self.events.clone(), self.beat.clone());
        let silent = self.silent();
        self.beating = Some(tokio::spawn(async move {
            let paused = crew.backend.beat(beat).await;
            match paused {
                Ok(paused) => drop(events.send(Event::Beaten(paused))),
                Err(error) => tracing::warn!(%error, "the beat failed"),
            }
            for queue in silent {
                if is_deaf(&crew, &queue).await {
                    let _ = events.send(Event::Silent(queue));
                }
            }
            crew.detach_long_runs().await;
            crew.look_after_long_runs().await;
            crew.renew().await;
        }));
    }

    /// Writes what was counted, beside the loop; asks nothing when there is nothing to write.
    fn flush(&self) {
        if !self.crew.tallies.is_empty() {
            let crew = Arc::clone(&self.crew);
            tokio::spawn(async move { crew.tallies.flush(&*crew.backend).await });
        }
    }

    /// Queues from which nothing came for long, though all slots are free.
    fn silent(&self) -> Vec<QueueName> {
        if self
            .benches
            .values()
            .any(|bench| bench.free < bench.slots || bench.held)
            || !self.room.is_empty()
        {
            return Vec::new();
        }
        let silent = |tap: &Tap| !tap.paused && tap.came.elapsed() > SILENCE;
        self.taps
            .iter()
            .filter(|(_, tap)| silent(tap))
            .map(|(queue, _)| queue.clone())
            .collect()
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

    fn is_quiet(&self) -> bool {
        self.under_way == 0 && self.room.is_empty()
    }

    /// For `run_until_idle`: whether nothing is left; moves a standing clock to the next job.
    async fn nothing_left(&mut self) -> Result<bool, WorkerError> {
        let pending = self.crew.backend.pending(self.beat.queues.clone()).await?;
        if pending.ready > 0 || pending.held > 0 {
            return Ok(false);
        }
        // From a server, a delivery on its way is neither ready there nor held here.
        if self.crew.backend.facts().detach && self.delivered.elapsed() < ON_ITS_WAY {
            return Ok(false);
        }
        match pending.next_due {
            Some(due) => {
                self.crew.backend.advance_to(due);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Takes no more; running jobs finish within the grace; the rest goes back.
    async fn stop(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        mut mails: mpsc::Receiver<Mail>,
        grace: Duration,
    ) {
        self.taps.clear();
        let unclaimed = self.room.take(|_| true);
        self.hand_back(unclaimed, Release::Now);
        self.crew.stopping.cancel();
        if self.under_way > 0 {
            tracing::info!(
                jobs = self.under_way,
                ?grace,
                "stops when these have ended; a second signal gives them back at once"
            );
        }
        let deadline = tokio::time::sleep(grace);
        tokio::pin!(deadline);
        let second = crate::worker::shutdown_signal();
        tokio::pin!(second);
        let mut told = false;
        while self.under_way > 0 {
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(Event::Over) => self.under_way -= 1,
                    // Its consumer was told to end; what still came goes back below.
                    Some(_) => {}
                    None => break,
                },
                // A cancel reaches running jobs also now.
                mail = mails.recv(), if !mails.is_closed() => self.read_mail(mail),
                () = &mut deadline => {
                    if told {
                        tracing::warn!(jobs = self.under_way, "the back end does not take what is left; others will find it");
                        break;
                    }
                    told = true;
                    self.crew.interrupt();
                    deadline.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                }
                () = &mut second, if !told => {
                    told = true;
                    self.crew.interrupt();
                    deadline.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                }
            }
        }
        if let Some(beat) = self.beating.take() {
            beat.abort();
            // It ended or was ended: either is well.
            let _ = beat.await;
        }
        let flushed = self.crew.tallies.flush(&*self.crew.backend);
        if tokio::time::timeout(LAST_WORDS, flushed).await.is_err() {
            tracing::debug!("the last statistics could not be written");
        }
        let left = tokio::time::timeout(LAST_WORDS, self.crew.backend.leave(self.crew.me)).await;
        if let Err(error) = left.unwrap_or(Err(millhand_broker::Error::Closed)) {
            tracing::warn!(%error, "could not say that this worker is gone; others will notice");
        }
        if let Some(crew) = Arc::into_inner(self.crew) {
            crew.executors.stop().await;
        }
        tracing::info!("stopped");
    }
}

/// Asks until the servers can be reached: a worker may be there before them.
async fn reached<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match ask().await {
            Err(error @ Error::Unreachable { .. }) => {
                tracing::warn!(%error, "the worker waits for its servers");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            answer => return answer,
        }
    }
}

/// Says that an attempt is over, also when it panicked.
struct Over(mpsc::UnboundedSender<Event>);

impl Drop for Over {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Over);
    }
}

fn spawn(crew: Arc<Crew>, job: Waiting, slot: Option<Slot>, events: mpsc::UnboundedSender<Event>) {
    let over = Over(events);
    tokio::spawn(async move {
        if let Some(job) = attempt(crew, job, slot).await {
            let _ = over.0.send(Event::Again(Box::new(job)));
        }
        drop(over);
    });
}

/// Whether a queue's jobs stay away: some are ready, and still are when they had time to come.
async fn is_deaf(crew: &Crew, queue: &QueueName) -> bool {
    for wait in [SILENCE_AGAIN, Duration::ZERO] {
        match crew.backend.pending(vec![queue.clone()]).await {
            Ok(pending) if pending.ready > 0 => tokio::time::sleep(wait).await,
            _ => return false,
        }
    }
    true
}
