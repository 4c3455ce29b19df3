//! Jobs that come in, and reach one worker.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use millhand_proto::State;
use millhand_proto::protocol::{Meeting, Situation};

use super::steps::{
    consume, core, id, meet, next, nothing_comes, pass, push, push_one, run, seen, settle, situation, state, succeed,
    worker,
};
use crate::backend::{Backend, Release, Verdict};

pub(super) async fn pushed_jobs_are_seen(backend: Arc<dyn Backend>) {
    let job = push_one(&backend, 1).await;
    let view = seen(&backend, job).await;
    assert_eq!(view.entry.state, State::Queued);
    if backend.facts().keeps_waiting_arguments {
        let args = view.args.expect("its arguments");
        assert_eq!(args.decode::<String>().expect("text"), "args");
    }
    let queues = backend.queues().await.expect("queues");
    assert_eq!((queues.len(), queues[0].queued), (1, 1));
}

pub(super) async fn delivered_to_one(backend: Arc<dyn Backend>) {
    let (mut a, mut b) = (consume(&backend, worker(1)).await, consume(&backend, worker(2)).await);
    for n in 1..=20 {
        push_one(&backend, n).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let delivery = tokio::select! {
            delivery = next(&mut a) => delivery,
            delivery = next(&mut b) => delivery,
        };
        assert!(seen.insert(delivery.parcel.jobs()[0].id()), "delivered twice");
        settle(&backend, &delivery, Verdict::Acknowledge).await;
    }
    nothing_comes(&mut a).await;
    nothing_comes(&mut b).await;
}

pub(super) async fn claimed_by_one(backend: Arc<dyn Backend>) {
    let (mut a, mut b) = (consume(&backend, worker(1)).await, consume(&backend, worker(2)).await);
    let job = id(1);
    for _ in 0..2 {
        push_one(&backend, 1).await;
    }
    let mut both = Vec::new();
    for _ in 0..2 {
        both.push(tokio::select! { d = next(&mut a) => d, d = next(&mut b) => d });
    }
    run(&backend, &both[0], worker(1), 1).await;
    assert_eq!(state(&backend, job).await, Some(State::Running));
    assert!(matches!(
        meet(&backend, &both[1], situation(worker(2), 2)).await,
        Meeting::Busy(_)
    ));
    let here = Situation {
        running_here: true,
        ..situation(worker(1), 3)
    };
    assert!(
        matches!(meet(&backend, &both[1], here).await, Meeting::Busy(_)),
        "never beside itself"
    );
}

pub(super) async fn a_repeated_claim_is_the_same(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 5).await;
    assert_eq!(run(&backend, &delivery, worker(1), 5).await, fence);
    let newer = run(&backend, &delivery, worker(1), 6).await;
    assert!(newer.claim > fence.claim, "not known here any more: a new claim");
}

pub(super) async fn the_same_id_is_one_job(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let first = next(&mut consumer).await;
    let fence = run(&backend, &first, worker(1), 1).await;
    settle(&backend, &first, succeed(fence, "once")).await;
    push_one(&backend, 1).await;
    let second = next(&mut consumer).await;
    assert_eq!(meet(&backend, &second, situation(worker(1), 2)).await, Meeting::Drop);
}

pub(super) async fn expired_jobs_do_not_start(backend: Arc<dyn Backend>) {
    let mut late = core(id(1), backend.now());
    late.expires = Some(backend.now().plus(Duration::from_millis(20)));
    push(&backend, vec![late]).await;
    pass(&backend, Duration::from_millis(30)).await;
    let mut consumer = consume(&backend, worker(1)).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(
        meet(&backend, &delivery, situation(worker(1), 1)).await,
        Meeting::Ended(State::Expired)
    );
    assert_eq!(state(&backend, id(1)).await, Some(State::Expired));
}

pub(super) async fn unknown_jobs_are_parked(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let unknown = Situation {
        not_understood: Some("task act is not known here".into()),
        ..situation(worker(1), 1)
    };
    let Meeting::Parked(until) = meet(&backend, &delivery, unknown).await else {
        panic!("parked was expected")
    };
    assert!(until > backend.now());
    let soon = backend.now().plus(Duration::from_millis(100));
    settle(&backend, &delivery, Verdict::Release(Release::Parked(soon))).await;
    let entry = backend
        .read(vec![job])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .expect("it is there")
        .entry;
    assert_eq!(entry.state, State::Queued);
    assert_eq!(entry.parked.expect("a note").why, "task act is not known here");
    pass(&backend, Duration::from_millis(100)).await;
    let again = next(&mut consumer).await;
    assert_eq!(again.parcel.jobs()[0].hop.parked.expect("it was parked").times, 1);
    run(&backend, &again, worker(1), 2).await;
}
