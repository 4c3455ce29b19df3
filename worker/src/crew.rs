//! What all attempts of one worker share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millhand_broker::{Backend, Claim, Coalescer, DeliveryId, Error, Release, Settled, Settlement, Verdict};
use millhand_proto::protocol::Meeting;
use millhand_proto::{Fence, JobId, Progress, WorkerId, limits};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::executors::Executors;
use crate::log::JobLog;
use crate::registry::{Executor, Registry};
use crate::room::Waiting;
use crate::stop::Stop;
use crate::tally::Tallies;

/// The first pause before a back end that failed is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The pauses between two tries to settle one job whose successor cannot be published.
const SETTLE_AGAIN: Duration = Duration::from_millis(50);
const SETTLE_SLOWLY: Duration = Duration::from_secs(2);
/// Claims or settlements that share one call of the back end.
const BATCH: usize = 128;

/// A random number; a collision would have to meet the same job at the same claim.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// A run that is under way.
#[derive(Debug)]
struct Under {
    stop: Stop,
    claim: Option<(Claim, Fence)>,
    /// What it says while it runs.
    log: JobLog,
    renewed: Instant,
    cancel_asked: bool,
    since: Instant,
    delivery: DeliveryId,
    /// It no longer holds its delivery.
    detached: bool,
}

/// The shared part of a worker.
pub(crate) struct Crew {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) me: WorkerId,
    pub(crate) registry: Arc<Registry>,
    pub(crate) executors: Executors,
    /// Jobs that ended and are not yet remembered.
    pub(crate) window: Semaphore,
    /// One suspect runs at a time.
    pub(crate) suspects: Semaphore,
    /// Ends when the worker gives up what it has not claimed.
    pub(crate) stopping: CancellationToken,
    /// What was counted and is not written yet.
    pub(crate) tallies: Tallies,
    claims: Coalescer<Claim, Meeting>,
    /// Ends wait for no other settlement: an end is remembered also while nothing can be published.
    ends: Coalescer<Settlement, Settled>,
    leaves: Coalescer<Settlement, Settled>,
    /// What goes back at once waits for nothing that has to wait somewhere.
    backs: Coalescer<Settlement, Settled>,
    settles_apart: bool,
    runs: Mutex<HashMap<JobId, Under>>,
}

impl Crew {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        me: WorkerId,
        registry: Arc<Registry>,
        executors: Executors,
        window: usize,
    ) -> Self {
        let stopping = CancellationToken::new();
        let (claimer, until) = (Arc::clone(&backend), stopping.clone());
        let claims = Coalescer::new(BATCH, move |claims: Vec<Claim>| {
            let (backend, until) = (Arc::clone(&claimer), until.clone());
            async move { persist("claim", until, || backend.claim(claims.clone())).await }
        });
        let settles = || {
            let settler = Arc::clone(&backend);
            Coalescer::new(BATCH, move |settlements| settle(Arc::clone(&settler), settlements))
        };
        let (ends, leaves, backs) = (settles(), settles(), settles());
        let settles_apart = backend.facts().settles_apart;
        Self {
            backend,
            me,
            registry,
            executors,
            claims,
            ends,
            leaves,
            backs,
            settles_apart,
            window: Semaphore::new(window),
            suspects: Semaphore::new(1),
            stopping,
            tallies: Tallies::default(),
            runs: Mutex::default(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<JobId, Under>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this job is under way here; `None` when another copy of it is.
    pub(crate) fn enter(self: &Arc<Self>, id: JobId, delivery: DeliveryId, stop: Stop) -> Option<Presence> {
        let mut runs = self.runs();
        if runs.contains_key(&id) {
            return None;
        }
        runs.insert(
            id,
            Under {
                stop,
                claim: None,
                log: JobLog::default(),
                renewed: Instant::now(),
                cancel_asked: false,
                since: Instant::now(),
                delivery,
                detached: false,
            },
        );
        Some(Presence {
            crew: Arc::clone(self),
            id,
        })
    }

    pub(crate) fn claimed(&self, id: JobId, claim: Claim, fence: Fence, log: JobLog) {
        if let Some(run) = self.runs().get_mut(&id) {
            run.claim = Some((claim, fence));
            run.log = log;
            run.since = Instant::now();
            run.renewed = run.since;
        }
    }

    pub(crate) fn cancel_asked(&self, id: JobId) -> bool {
        self.runs().get(&id).is_some_and(|run| run.cancel_asked)
    }

    /// How far jobs that run say they are; those that run longest, when there are many.
    pub(crate) fn progress(&self) -> Vec<(JobId, Progress)> {
        let runs = self.runs();
        let told = runs
            .iter()
            .filter_map(|(id, run)| Some((run.since, *id, run.log.progress()?)));
        let told: Vec<_> = told.collect();
        drop(runs);
        longest(told)
    }

    /// A cancel was asked for.
    pub(crate) fn cancel(&self, id: JobId) {
        if let Some(run) = self.runs().get_mut(&id) {
            run.cancel_asked = true;
            run.stop.cancel();
        }
    }

    /// Stops every run: they go back.
    pub(crate) fn interrupt(&self) {
        for run in self.runs().values() {
            run.stop.shutdown();
        }
    }

    /// Reads long runs again: a cancel that was asked for, or a claim that is gone, stops them.
    pub(crate) async fn look_after_long_runs(&self) {
        let long: Vec<(JobId, Fence)> = self
            .runs()
            .iter()
            .filter(|(_, run)| run.since.elapsed() > Duration::from_secs(5))
            .filter_map(|(id, run)| run.claim.as_ref().map(|(_, fence)| (*id, *fence)))
            .collect();
        if long.is_empty() {
            return;
        }
        let Ok(views) = self.backend.read(long.iter().map(|(id, _)| *id).collect()).await else {
            return;
        };
        for ((id, fence), view) in long.iter().zip(views) {
            // A record that is missing was lost, not taken over: the run goes on.
            let Some(entry) = view.map(|v| v.entry) else { continue };
            if entry.cancel_asked.is_some() {
                self.cancel(*id);
            } else if entry.hand > fence.hand || (entry.hand == fence.hand && entry.claims > fence.claim) {
                tracing::warn!(job = %id, "another worker claimed the job; this run is stopped");
                if let Some(run) = self.runs().get(id) {
                    run.stop.shutdown();
                }
            }
        }
    }

    /// Moves the deadlines of runs without a hard limit, when half of the time is gone.
    pub(crate) async fn renew(&self) {
        let open = |claim: &Claim| claim.situation.hard_limit.is_none();
        let (ids, claims): (Vec<JobId>, Vec<Claim>) = self
            .runs()
            .iter()
            .filter(|(_, run)| run.renewed.elapsed() > limits::DEADLINE_OPEN / 2)
            .filter_map(|(id, run)| Some((*id, run.claim.as_ref()?.0.clone())))
            .filter(|(_, claim)| open(claim))
            .unzip();
        if claims.is_empty() {
            return;
        }
        match self.backend.claim(claims).await {
            Ok(_) => {
                let mut runs = self.runs();
                for id in ids {
                    if let Some(run) = runs.get_mut(&id) {
                        run.renewed = Instant::now();
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "deadlines could not be moved; the next beat tries again"),
        }
    }

    /// Asks for leave to run, for as long as the store is away. `None` when the worker stops
    /// meanwhile: the delivery comes again.
    pub(crate) async fn claim(&self, claim: Claim) -> Option<Meeting> {
        self.claims.call(claim).await
    }

    /// Settles one job, for as long as the store is away: what ended is never acknowledged
    /// unremembered.
    pub(crate) async fn settle(&self, settlement: &Settlement) -> Option<Settled> {
        let mut wait = SETTLE_AGAIN;
        loop {
            let asked = settlement.clone();
            let settled = match &settlement.verdict {
                Verdict::Acknowledge | Verdict::Cancel { .. } => self.ends.call(asked).await,
                Verdict::Succeed { children, .. } if children.is_empty() => self.ends.call(asked).await,
                Verdict::Release(Release::Now | Release::Alone) => self.backs.call(asked).await,
                // What is published waits for its own queue to confirm it, and for no other: one without a leader may
                // take minutes. Only what goes back unrun stays together, since copies of one delivery travel in one
                // message.
                verdict if self.settles_apart && !matches!(verdict, Verdict::Release(_)) => {
                    settle(Arc::clone(&self.backend), vec![asked]).await.pop()
                }
                _ => self.leaves.call(asked).await,
            };
            match settled {
                Some(Settled::Again) => tokio::time::sleep(wait).await,
                settled => return settled,
            }
            wait = (wait * 2).min(SETTLE_SLOWLY);
        }
    }

    /// Runs that hold their delivery for long.
    fn long_runs(&self, now: Instant) -> Vec<(JobId, Settlement)> {
        let long = |run: &Under| !run.detached && now.duration_since(run.since) >= limits::DETACH_AFTER;
        self.runs()
            .iter()
            .filter(|(_, run)| long(run))
            .filter_map(|(id, run)| {
                let (claim, _) = run.claim.as_ref()?;
                let settlement = Settlement {
                    delivery: run.delivery,
                    copy: claim.copy.clone(),
                    verdict: Verdict::Detach,
                    log: None,
                };
                Some((*id, settlement))
            })
            .collect()
    }

    /// Lets go of the deliveries of runs that last: from now on a watch copy looks after each.
    pub(crate) async fn detach_long_runs(&self) {
        if !self.backend.facts().detach {
            return;
        }
        for (id, settlement) in self.long_runs(Instant::now()) {
            if self.settle(&settlement).await == Some(Settled::Done)
                && let Some(run) = self.runs().get_mut(&id)
            {
                run.detached = true;
            }
        }
    }
}

/// Of what runs say since when, that of the oldest.
fn longest(mut told: Vec<(Instant, JobId, Progress)>) -> Vec<(JobId, Progress)> {
    told.sort_unstable_by_key(|(since, ..)| *since);
    told.truncate(limits::PROGRESS_JOBS);
    told.into_iter().map(|(_, id, progress)| (id, progress)).collect()
}

/// Settles, for as long as the store is away. Where the caller goes, that is like a crash at this point.
async fn settle(backend: Arc<dyn Backend>, settlements: Vec<Settlement>) -> Vec<Settled> {
    let never = CancellationToken::new();
    persist("settle", never, || backend.settle(settlements.clone())).await
}

/// Asks until there is an answer, with growing pauses. No answers come from a back end that is
/// closed, and, while it fails, after `until`; an answer that is under way is always waited for.
async fn persist<T, F>(what: &'static str, until: CancellationToken, ask: impl Fn() -> F) -> Vec<T>
where
    F: Future<Output = Result<Vec<T>, Error>>,
{
    let mut wait = FIRST_PAUSE;
    loop {
        match ask().await {
            Ok(answers) => return answers,
            Err(Error::Closed) => return Vec::new(),
            Err(error) => {
                // Once in each call: hundreds of jobs may wait for the same.
                if wait == FIRST_PAUSE {
                    tracing::warn!(what, %error, "the back end failed; it is asked again");
                } else {
                    tracing::debug!(what, %error, "the back end failed; it is asked again");
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = until.cancelled() => return Vec::new(),
                }
                wait = (wait * 2).min(Duration::from_secs(2));
            }
        }
    }
}

/// This job is under way in this worker, until dropped.
pub(crate) struct Presence {
    crew: Arc<Crew>,
    id: JobId,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.crew.runs().remove(&self.id);
    }
}

/// What attempts tell the loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// A delivery came.
    Delivered(Box<millhand_broker::Delivery>),
    /// A consumer ended by itself.
    Ended(millhand_proto::QueueName),
    /// A job's outcome was stale: its copy is met again.
    Again(Box<Waiting>),
    /// A beat was answered: these queues are paused.
    Beaten(Vec<millhand_proto::QueueName>),
    /// A beat was not answered: why.
    Unbeaten(String),
    /// Why nothing can come from this queue for now.
    Trouble(millhand_proto::QueueName, Option<String>),
    /// A silent queue was asked whether jobs are ready; why it did not answer.
    Looked(millhand_proto::QueueName, Option<String>),
    /// Jobs of this queue are ready and do not come.
    Silent(millhand_proto::QueueName),
    /// So many slots are free; how long the job ran, if it ran.
    Freed(Executor, usize, Option<Duration>),
    /// An attempt is over.
    Over,
    /// A job went back into its queue, unclaimed.
    Back,
}

/// The right to run one job on an executor: as many slots as its task takes.
pub(crate) struct Slot {
    executor: Executor,
    weight: usize,
    events: mpsc::UnboundedSender<Event>,
    ran: Option<Duration>,
}

impl Slot {
    pub(crate) fn new(executor: Executor, weight: usize, events: mpsc::UnboundedSender<Event>) -> Self {
        Self {
            executor,
            weight,
            events,
            ran: None,
        }
    }

    /// Gives the slot back after a run.
    pub(crate) fn free(mut self, ran: Duration) {
        self.ran = Some(ran);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Freed(self.executor, self.weight, self.ran));
    }
}

#[cfg(test)]
mod tests {
    use millhand_broker::memory::Memory;
    use millhand_proto::protocol::Situation;
    use millhand_proto::{Core, JobCopy, QueueName, TaskName, Timestamp};

    use super::*;
    use crate::executors::{Recycle, Sizes};

    fn crew() -> Arc<Crew> {
        let registry = Arc::new(Registry::default());
        let sizes = Sizes {
            asyncs: 0,
            threads: 0,
            processes: 0,
            recycle: Recycle::default(),
        };
        let executors = Executors::start(Arc::clone(&registry), sizes, None, limits::BLOCK_LIMIT, Arc::default());
        let me = WorkerId::from_bytes([1; 16]);
        Arc::new(Crew::new(Memory::open().unwrap(), me, registry, executors.unwrap(), 1))
    }

    fn claim(id: JobId) -> Claim {
        let (task, at) = (TaskName::new("act").unwrap(), Timestamp::MIN_WIRE);
        Claim {
            copy: JobCopy::first(Core::new(id, task, QueueName::default(), at)),
            situation: Situation::new(WorkerId::from_bytes([1; 16]), 1, at),
        }
    }

    #[tokio::test]
    async fn a_run_that_lasts_is_to_let_go_of_its_delivery_once() {
        let (crew, id) = (crew(), JobId::given("x"));
        let presence = crew.enter(id, DeliveryId(1), Stop::default()).unwrap();
        let since = crew.runs()[&id].since;
        assert!(
            crew.long_runs(since + limits::DETACH_AFTER).is_empty(),
            "not claimed yet"
        );
        let fence = Fence {
            hand: 0,
            claim: 1,
            token: 1,
        };
        crew.claimed(id, claim(id), fence, JobLog::default());
        let since = crew.runs()[&id].since;
        let long = |after| crew.long_runs(since + after).len();
        assert_eq!(long(limits::DETACH_AFTER.saturating_sub(Duration::from_nanos(1))), 0);
        assert_eq!(long(limits::DETACH_AFTER), 1);
        crew.runs().get_mut(&id).unwrap().detached = true;
        assert_eq!(long(limits::DETACH_AFTER), 0);
        drop(presence);
    }

    #[test]
    fn progress_is_told_of_those_that_run_longest() {
        let now = Instant::now();
        let told = |jobs: usize| {
            let since = |place: usize| now + Duration::from_secs(u64::try_from(jobs - place).unwrap());
            let id = |place: usize| JobId::given(&place.to_string());
            // The youngest come first.
            let all = (0..jobs).map(|place| (since(place), id(place), Progress { done: 1, total: 2 }));
            let told: Vec<JobId> = longest(all.collect()).into_iter().map(|(job, _)| job).collect();
            (told.len(), told.contains(&id(0)), told[0] == id(jobs - 1))
        };
        assert_eq!(told(limits::PROGRESS_JOBS), (limits::PROGRESS_JOBS, true, true));
        assert_eq!(told(limits::PROGRESS_JOBS + 1), (limits::PROGRESS_JOBS, false, true));
    }
}
