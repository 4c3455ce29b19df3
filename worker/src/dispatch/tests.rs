//! On a clock that runs ahead whenever nobody has anything to do: a minute takes no time.

use std::sync::Arc;
use std::time::Duration;

use millhand_broker::faults::{Door, Fault, Faulty};
use millhand_broker::memory::Memory;
use millhand_proto::{Core, JobId, Parcel, Task, TaskName, limits};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::Context;
use crate::executors::Recycle;
use crate::registry::TaskOptions;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Sleep {}

impl Task for Sleep {
    const NAME: &'static str = "sleep";
    type Output = ();
}

/// A back end with one job, which sleeps for a minute, and how a worker is to run it.
async fn with_a_job(started: mpsc::UnboundedSender<()>) -> (Arc<Faulty>, Plan) {
    let backend = Faulty::around(Memory::open().unwrap());
    let queue = QueueName::default();
    let task = TaskName::new(Sleep::NAME).unwrap();
    let mut core = Core::new(JobId::given("x"), task, queue.clone(), backend.now());
    core.args = rmp_serde::to_vec_named(&Sleep {}).unwrap().into();
    let pushed = backend.push(vec![Parcel::pack(vec![core]).unwrap()]).await;
    assert_eq!(pushed, [millhand_broker::Pushed::Accepted]);
    let mut registry = Registry::default();
    let sleep = move |_: Sleep, _: Context| {
        let _ = started.send(());
        async {
            tokio::time::sleep(MINUTE).await;
            Ok(())
        }
    };
    registry.on_async(sleep, TaskOptions::default());
    let plan = Plan {
        recycle: Recycle::default(),
        backend: Arc::<Faulty>::clone(&backend),
        queues: vec![queue],
        slots: Slots::default(),
        grace: HOUR,
        block_limit: MINUTE,
        registry: Arc::new(registry),
        states: Arc::default(),
        tasks: Some(tokio::runtime::Handle::current()),
        board: Board::default(),
    };
    (backend, plan)
}

fn never() -> Until {
    Until::Told(Box::pin(std::future::pending()))
}

#[tokio::test(start_paused = true)]
async fn a_worker_to_which_no_ready_job_comes_for_a_minute_says_that_it_is_deaf() {
    let (backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
    backend.plan(Door::Consume, Fault::RequestLost, 1);
    let began = Instant::now();
    let ended = Dispatch::run(plan, never(), CancellationToken::new()).await;
    assert!(began.elapsed() > MINUTE);
    let Err(error @ WorkerError::Silent(_)) = ended else {
        panic!("{ended:?}");
    };
    // What operators are told to look for.
    assert!(error.to_string().starts_with("deaf: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_hands_are_full_of_what_cannot_be_settled_is_not_deaf() {
    let (backend, mut plan) = with_a_job(mpsc::unbounded_channel().0).await;
    plan.slots.asyncs = 1;
    backend.plan(Door::Settle, Fault::RequestLost, 100_000);
    let (mut this, mut ears) = Dispatch::new(plan).unwrap();
    this.open(&mut ears).await.unwrap();
    // Until its only job gives back its slot.
    let mut freed = false;
    while !freed {
        this.start_waiting();
        let event = ears.inbox.recv().await.unwrap();
        freed = matches!(event, Event::Freed(..));
        this.see(event).unwrap();
    }
    tokio::time::sleep(HOUR).await;
    assert_eq!(this.silent(), []);
    backend.unplan();
    while this.under_way > 0 {
        let event = ears.inbox.recv().await.unwrap();
        this.see(event).unwrap();
    }
    assert_eq!(this.silent(), [QueueName::default()]);
    this.stop(ears, HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_beats_until_its_jobs_have_ended() {
    let (started, mut starts) = mpsc::unbounded_channel();
    let (backend, plan) = with_a_job(started).await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let until = Until::Told(Box::pin(async {
        let _ = stopped.await;
    }));
    let worker = tokio::spawn(Dispatch::run(plan, until, CancellationToken::new()));
    starts.recv().await.unwrap();
    let beats = 1000;
    backend.plan(Door::Beat, Fault::RequestLost, beats);
    stop.send(()).unwrap();
    worker.await.unwrap().unwrap();
    let beaten = beats - backend.left();
    assert!(beaten >= 11, "{beaten} beats in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_at_its_start_leaves_nothing_behind() {
    let (backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
    // It has its consumers, and waits for its mailbox until it is told.
    let faults = 10_000;
    backend.plan(Door::Watch, Fault::RequestLost, faults);
    let until = Until::Told(Box::pin(tokio::time::sleep(MINUTE)));
    let ended = Dispatch::run(plan, until, CancellationToken::new()).await;
    assert!(ended.is_ok() && backend.left() < faults, "{ended:?}");
    let left = backend.pending(Vec::new()).await.unwrap();
    assert_eq!((left.ready, left.held), (1, 0), "the job is back");
    assert_eq!(backend.workers().await.unwrap().len(), 0, "nobody is known");
}

#[tokio::test(start_paused = true)]
async fn what_only_goes_back_does_not_keep_a_worker_for_its_grace() {
    let (backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
    let (mut this, mut ears) = Dispatch::new(plan).unwrap();
    this.open(&mut ears).await.unwrap();
    let delivered = async {
        while this.room.is_empty() {
            let event = ears.inbox.recv().await.unwrap();
            this.see(event).unwrap();
        }
    };
    delivered.await;
    backend.plan(Door::Settle, Fault::RequestLost, 100_000);
    let began = Instant::now();
    this.stop(ears, HOUR).await;
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_learn_whether_anything_should_come_is_not_ready() {
    let (backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
    backend.plan(Door::Consume, Fault::RequestLost, 1);
    backend.plan(Door::Pending, Fault::RequestLost, 2);
    let mut health = plan.board.reader();
    let ended = tokio::spawn(Dispatch::run(plan, never(), CancellationToken::new()));
    let mut said = Vec::new();
    while health.changed().await {
        said.extend(health.now().not_ready);
    }
    let unknown: Vec<_> = said.iter().filter(|why| why.contains("is not known")).collect();
    assert!(!unknown.is_empty(), "{said:?}");
    let from = "nothing came from queue default for ";
    assert!(
        unknown
            .iter()
            .all(|why| why.starts_with(from) && why.contains("a planned fault")),
        "{said:?}"
    );
    // Then it learns that it is deaf.
    let ended = ended.await.unwrap();
    assert!(matches!(ended, Err(WorkerError::Silent(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_to_which_only_comes_what_cannot_be_read_is_not_deaf() {
    let (_backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
    let (mut this, mut ears) = Dispatch::new(plan).unwrap();
    this.open(&mut ears).await.unwrap();
    let (strangers, unreadable) = watch::channel(0);
    this.taps.values_mut().next().unwrap().unreadable = unreadable;
    tokio::time::advance(MINUTE * 2).await;
    assert_eq!(this.silent().len(), 1);
    strangers.send_replace(1);
    assert_eq!(this.silent(), []);
    // From when it was looked at.
    this.listen();
    tokio::time::advance(MINUTE - Duration::from_secs(1)).await;
    assert_eq!(this.silent(), []);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(this.silent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_not_the_end_of_what_is_to_be_done() {
    let (started, starts) = mpsc::unbounded_channel();
    let (backend, plan) = with_a_job(started).await;
    backend.plan(Door::Pending, Fault::RequestLost, 5);
    let ended = Dispatch::run(plan, Until::Idle, CancellationToken::new()).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!((starts.len(), backend.left()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_not_ready_before_its_first_beat_and_says_what_it_waits_for() {
    for (door, says) in [
        (Door::Watch, "it has not started yet: "),
        (Door::Beat, "no beat was answered yet: "),
    ] {
        let (backend, plan) = with_a_job(mpsc::unbounded_channel().0).await;
        let mut health = plan.board.reader();
        backend.plan(door, Fault::RequestLost, 100_000);
        let until = Until::Told(Box::pin(tokio::time::sleep(MINUTE)));
        let worker = tokio::spawn(Dispatch::run(plan, until, CancellationToken::new()));
        while !health.now().not_ready.iter().any(|why| why.starts_with(says)) {
            assert!(health.changed().await && !health.is_ready(), "{says}");
        }
        worker.await.unwrap().unwrap();
    }
}

#[test]
fn four_jobs_for_each_slot_may_wait_to_be_remembered_and_no_more_than_the_window() {
    let most = limits::SETTLE_WINDOW;
    for (slots, window) in [
        (0, 1),
        (1, 4),
        (most / 4 - 1, most - 4),
        (most / 4, most),
        (most / 4 + 1, most),
    ] {
        assert_eq!(open::window(slots), window, "{slots} slots");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_beats_at_its_times() {
    let (started, mut starts) = mpsc::unbounded_channel();
    let (backend, plan) = with_a_job(started).await;
    let worker = tokio::spawn(Dispatch::run(plan, never(), CancellationToken::new()));
    starts.recv().await.unwrap();
    backend.plan(Door::Beat, Fault::RequestLost, 100);
    let tick = Duration::from_millis(1);
    let next = async || {
        let left = backend.left();
        while backend.left() == left {
            tokio::time::sleep(tick).await;
        }
        Instant::now()
    };
    let first = next().await;
    let apart = next().await - first;
    assert!(
        (limits::BEAT - tick * 2..=limits::BEAT + tick * 2).contains(&apart),
        "{apart:?}"
    );
    worker.abort();
}
