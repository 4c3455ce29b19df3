//! What people do to jobs and queues.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::Meeting;
use millhand_proto::{Core, QueueName, Receipt, State};

use super::SOON;
use super::steps::{
    act, consume, core, id, meet, next, nothing_comes, pass, push, push_one, run, seen, settle, situation, state,
    succeed, worker,
};
use crate::backend::{Act, Acted, Backend, Control, Mail, Verdict};

pub(super) async fn a_scheduled_job_runs_now(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let mut later = core(id(1), backend.now());
    later.not_before = Some(backend.now().plus(Duration::from_secs(5)));
    push(&backend, vec![later]).await;
    let view = seen(&backend, id(1)).await;
    assert_eq!(view.entry.state, State::Scheduled);
    let args = view.args.expect("its arguments").decode::<String>().expect("text");
    assert_eq!(args, "args");
    assert_eq!(act(&backend, Act::RunNow(id(1))).await, Acted::Done);
    let now = next(&mut consumer).await;
    let fence = run(&backend, &now, worker(1), 1).await;
    settle(&backend, &now, succeed(fence, "early")).await;
    assert!(matches!(act(&backend, Act::RunNow(id(1))).await, Acted::Refused(_)));
    pass(&backend, Duration::from_secs(5)).await;
    let late = next(&mut consumer).await;
    assert_eq!(meet(&backend, &late, situation(worker(1), 2)).await, Meeting::Drop);
}

pub(super) async fn cancelled_before_the_start(backend: Arc<dyn Backend>) {
    let (mut consumer, mut later) = (consume(&backend, worker(1)).await, core(id(2), backend.now()));
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(act(&backend, Act::Cancel(job)).await, Acted::Done);
    assert_eq!(act(&backend, Act::Cancel(job)).await, Acted::Done, "again");
    assert_eq!(meet(&backend, &delivery, situation(worker(1), 1)).await, Meeting::Drop);
    later.not_before = Some(backend.now().plus(Duration::from_secs(3600)));
    push(&backend, vec![later]).await;
    assert_eq!(seen(&backend, id(2)).await.entry.state, State::Scheduled);
    assert_eq!(act(&backend, Act::Cancel(id(2))).await, Acted::Done);
    assert_eq!(state(&backend, id(2)).await, Some(State::Cancelled));
}

pub(super) async fn cancelled_while_running(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let mut mails = backend.watch(worker(1)).await.expect("a mailbox");
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    assert_eq!(act(&backend, Act::Cancel(job)).await, Acted::Asked);
    let mail = tokio::time::timeout(SOON, mails.recv()).await.expect("mail in time");
    assert_eq!(mail, Some(Mail::Cancel(job)));
    settle(
        &backend,
        &delivery,
        Verdict::Cancel {
            fence,
            note: None,
            receipt: Receipt::default(),
        },
    )
    .await;
    assert_eq!(state(&backend, job).await, Some(State::Cancelled));
    assert!(matches!(act(&backend, Act::Retry(job)).await, Acted::Refused(_)));
}

pub(super) async fn dropped_jobs_are_forgotten(backend: Arc<dyn Backend>) {
    let job = push_one(&backend, 1).await;
    seen(&backend, job).await;
    assert!(matches!(act(&backend, Act::Drop(job)).await, Acted::Refused(_)));
    assert_eq!(act(&backend, Act::Cancel(job)).await, Acted::Done);
    assert_eq!(act(&backend, Act::Drop(job)).await, Acted::Done);
    assert_eq!(state(&backend, job).await, None);
}

pub(super) async fn nothing_is_known_of_strangers(backend: Arc<dyn Backend>) {
    assert_eq!(state(&backend, id(1)).await, None);
    for what in [Act::Retry(id(1)), Act::RunNow(id(1)), Act::Drop(id(1))] {
        assert_eq!(act(&backend, what).await, Acted::Unknown);
    }
    let cancelled = act(&backend, Act::Cancel(id(1))).await;
    if backend.facts().cancels_strangers {
        assert_eq!(cancelled, Acted::Done);
        let mut consumer = consume(&backend, worker(1)).await;
        push_one(&backend, 1).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(meet(&backend, &delivery, situation(worker(1), 1)).await, Meeting::Drop);
    } else {
        assert_eq!(cancelled, Acted::Unknown);
    }
}

pub(super) async fn a_paused_queue_delivers_nothing(backend: Arc<dyn Backend>) {
    let queue = QueueName::default();
    assert!(
        backend
            .control(Control::Pause(queue.clone()))
            .await
            .expect("a pause")
            .changed
    );
    assert!(
        !backend
            .control(Control::Pause(queue.clone()))
            .await
            .expect("a pause")
            .changed,
        "again"
    );
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    nothing_comes(&mut consumer).await;
    assert!(backend.queues().await.expect("queues")[0].paused.is_some());
    assert!(backend.control(Control::Resume(queue)).await.expect("a resume").changed);
    next(&mut consumer).await;
}

pub(super) async fn a_purge_cancels_what_waits(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let held = next(&mut consumer).await;
    run(&backend, &held, worker(1), 1).await;
    drop(consumer);
    let mut later = core(id(2), backend.now());
    later.not_before = Some(backend.now().plus(Duration::from_secs(3600)));
    push(&backend, vec![later]).await;
    // Whether the consumer is gone shows in what stays queued.
    let other = QueueName::new("other").expect("a name");
    for n in 3..6 {
        push(
            &backend,
            vec![Core {
                queue: other.clone(),
                ..core(id(n), backend.now())
            }],
        )
        .await;
    }
    for n in 2..6 {
        seen(&backend, id(n)).await;
    }
    let mut purged = 0;
    loop {
        let done = backend
            .control(Control::Purge(other.clone(), 2))
            .await
            .expect("a purge");
        purged += done.jobs;
        if !done.more {
            break;
        }
    }
    assert_eq!(purged, 3);
    assert_eq!(
        backend
            .control(Control::Purge(QueueName::default(), 10))
            .await
            .expect("a purge")
            .jobs,
        0
    );
    let entry = backend
        .read(vec![id(3)])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .expect("it is there")
        .entry;
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Cancelled, Some("purged"))
    );
    assert_eq!(state(&backend, id(1)).await, Some(State::Running));
    assert_eq!(state(&backend, id(2)).await, Some(State::Scheduled));
}
