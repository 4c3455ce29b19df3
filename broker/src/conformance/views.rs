//! What people and programs read.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::{Core, Count, Executor, Progress, QueueName, Receipt, State, Tally, TaskName, Timestamp, limits};

use super::steps::{consume, core, id, next, push, push_one, run, seen, settle, succeed, worker};
use crate::backend::{Backend, Control};
use crate::view::{JobFilter, LongPoll, LoopLag, WorkerBeat, WorkerHealth};

pub(super) async fn workers_are_seen(backend: Arc<dyn Backend>) {
    let consumer = consume(&backend, worker(1)).await;
    let queue = QueueName::default();
    let beat = WorkerBeat {
        worker: worker(1),
        host: "here".into(),
        pid: 7,
        started: backend.now(),
        queues: vec![queue.clone()],
        tasks: vec![TaskName::new("act").expect("a name")],
        slots: 3,
        running: 1,
        progress: Vec::new(),
        health: WorkerHealth {
            not_ready: vec!["2 of 4 thread slots are leaked".into()],
            leaked: 2,
            lag: Some(LoopLag { p50: 7, p99: 90_000 }),
            long_polls: 1,
            newest: vec![LongPoll {
                task: TaskName::new("act").expect("a name"),
                job: id(1),
                micros: 200_000,
                others: 90_000,
                lasts: false,
            }],
        },
    };
    assert_eq!(backend.beat(beat.clone()).await.expect("a beat"), []);
    for paused in [queue.clone(), QueueName::new("another").expect("a name")] {
        backend.control(Control::Pause(paused)).await.expect("a pause");
    }
    assert_eq!(backend.beat(beat.clone()).await.expect("a beat"), [queue]);
    let progress = vec![(id(7), Progress { done: 3, total: 8 })];
    let told = WorkerBeat {
        progress,
        ..beat.clone()
    };
    for beat in [
        beat,
        told.clone(),
        WorkerBeat {
            progress: vec![],
            ..told
        },
    ] {
        backend.beat(beat.clone()).await.expect("a beat");
        let seen = backend.workers().await.expect("workers");
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].beat, beat);
    }
    drop(consumer);
    backend.leave(worker(1)).await.expect("it leaves");
    assert_eq!(backend.workers().await.expect("workers").len(), 0);
}

pub(super) async fn numbers_add_up(backend: Arc<dyn Backend>) {
    let now = backend.now();
    let this = Tally::minute_of(now);
    let (queue, other) = (core(id(1), now).queue, QueueName::new("other").expect("a name"));
    let task = core(id(1), now).task;
    let tally = |minute, queue: &QueueName, millis| {
        let mut tally = Tally::new(minute, queue.clone(), task.clone());
        tally.numbers.count(Count::Succeeded);
        tally.numbers.count(Count::Failed);
        let receipt = Receipt {
            queue: millis * 1_000,
            run: millis * 2_000,
            cpu: Some(millis * 1_900),
            ..Receipt::default()
        };
        tally
            .numbers
            .record(Executor::Process, &receipt, Duration::from_millis(millis));
        tally
    };
    let write = async |token, tallies: Vec<Tally>| backend.tally(token, tallies).await.expect("written");
    write(1, vec![tally(this, &queue, 1), tally(this - 9, &queue, 1)]).await;
    let second = vec![tally(this, &other, 3), tally(this, &queue, 500)];
    write(2, second.clone()).await;
    // Once more under the same token: its answer was lost.
    write(2, second).await;
    // Too old to be kept.
    let kept = limits::KEEP_STATS.as_secs() / 60;
    write(3, vec![tally(this - kept - 2, &queue, 1)]).await;
    let mut both = tally(this, &queue, 1);
    both.numbers.merge(&tally(this, &queue, 500).numbers);
    let here = vec![both, tally(this, &other, 3)];
    let read = async |since: u64| {
        let since = now.as_micros() - i64::try_from(since * 60_000_000).expect("a time");
        let since = Timestamp::from_micros(since);
        backend.stats(since, now).await.expect("read")
    };
    assert_eq!(read(0).await, here);
    assert_eq!(read(8).await, here);
    let all = [vec![tally(this - 9, &queue, 1)], here].concat();
    assert_eq!(read(9).await, all);
    assert_eq!(read(2 * kept).await, all);
}

pub(super) async fn lists_filter(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    for n in 1..=3 {
        push_one(&backend, n).await;
        let delivery = next(&mut consumer).await;
        let fence = run(&backend, &delivery, worker(1), 1).await;
        settle(&backend, &delivery, succeed(fence, "done")).await;
    }
    let other = QueueName::new("other").expect("a name");
    push(
        &backend,
        vec![Core {
            queue: other.clone(),
            ..core(id(4), backend.now())
        }],
    )
    .await;
    seen(&backend, id(4)).await;
    let list = async |filter: JobFilter| backend.jobs(filter).await.expect("a list");
    let ids = |page: &crate::view::JobPage| page.jobs.iter().map(|j| j.id).collect::<Vec<_>>();
    let all = list(JobFilter {
        limit: 10,
        ..JobFilter::default()
    })
    .await;
    assert_eq!(ids(&all), [id(4), id(3), id(2), id(1)]);
    assert!(!all.more && all.complete);
    let two = list(JobFilter {
        states: vec![State::Succeeded],
        limit: 2,
        ..JobFilter::default()
    })
    .await;
    assert_eq!((ids(&two), two.more), (vec![id(3), id(2)], true));
    let there = list(JobFilter {
        queue: Some(other),
        limit: 10,
        ..JobFilter::default()
    })
    .await;
    assert_eq!(ids(&there), [id(4)]);
    let none = TaskName::new("none").ok();
    assert_eq!(
        ids(&list(JobFilter {
            task: none,
            limit: 10,
            ..JobFilter::default()
        })
        .await),
        []
    );
}
