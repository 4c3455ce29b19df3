//! Jobs that leave a worker before they ended, and come again.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::{Fence, Leaving, State};

use super::steps::{
    act, consume, leave, next, nothing_comes, pass, push_one, run, seen, settle, state, succeed, worker,
};
use crate::backend::{Act, Acted, Backend, Release, Settled, Verdict};

pub(super) async fn retries_wait_for_their_time(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    let (now, wait) = (backend.now(), Duration::from_millis(400));
    settle(&backend, &delivery, leave(fence, Leaving::Retry, now.plus(wait), now)).await;
    assert_eq!(state(&backend, job).await, Some(State::Retrying));
    nothing_comes(&mut consumer).await;
    pass(&backend, wait).await;
    let again = next(&mut consumer).await;
    let copy = &again.parcel.jobs()[0];
    assert_eq!(
        (copy.hop.hand, copy.attempt(), copy.hop.first_error.as_deref()),
        (1, 2, Some("no"))
    );
    assert!(backend.now() >= now.plus(wait));
    let fence = run(&backend, &again, worker(1), 2).await;
    settle(&backend, &again, succeed(fence, "at last")).await;
    let entry = backend
        .read(vec![job])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .expect("it is there")
        .entry;
    assert_eq!(
        (entry.state, entry.attempts, entry.notes.len()),
        (State::Succeeded, 2, 1)
    );
    assert!(matches!(
        settle(&backend, &delivery, succeed(Fence { hand: 0, ..fence }, "late")).await,
        Settled::Stale
    ));
}

pub(super) async fn a_snooze_counts_no_attempt(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    let (now, wait) = (backend.now(), Duration::from_secs(2));
    settle(&backend, &delivery, leave(fence, Leaving::Snooze, now.plus(wait), now)).await;
    assert_eq!(state(&backend, job).await, Some(State::Scheduled));
    pass(&backend, wait).await;
    let again = next(&mut consumer).await;
    assert_eq!(
        (again.parcel.jobs()[0].hop.hand, again.parcel.jobs()[0].attempt()),
        (1, 1)
    );
}

pub(super) async fn the_dead_keep_their_arguments(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    seen(&backend, job).await;
    assert!(
        matches!(act(&backend, Act::Retry(job)).await, Acted::Refused(_)),
        "only the dead"
    );
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    let now = backend.now();
    settle(&backend, &delivery, leave(fence, Leaving::Death, now, now)).await;
    let view = backend
        .read(vec![job])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .expect("it is there");
    assert_eq!(
        (view.entry.state, view.entry.reason.as_deref()),
        (State::Dead, Some("failed"))
    );
    assert!(view.args.is_some());
    nothing_comes(&mut consumer).await;
    assert_eq!(act(&backend, Act::Retry(job)).await, Acted::Done);
    assert!(
        matches!(act(&backend, Act::Retry(job)).await, Acted::Refused(_)),
        "once"
    );
    let again = next(&mut consumer).await;
    assert_eq!(again.parcel.jobs()[0].hop.hand, 1);
    let fence = run(&backend, &again, worker(1), 2).await;
    settle(&backend, &again, succeed(fence, "alive")).await;
    assert_eq!(state(&backend, job).await, Some(State::Succeeded));
}

pub(super) async fn released_copies_come_again(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    settle(&backend, &delivery, Verdict::Release(Release::Now)).await;
    let again = next(&mut consumer).await;
    assert_eq!(again.parcel.jobs()[0].hop.hand, 0);
    let until = backend.now().plus(Duration::from_millis(200));
    settle(&backend, &again, Verdict::Release(Release::Busy(until))).await;
    pass(&backend, Duration::from_millis(200)).await;
    let third = next(&mut consumer).await;
    assert_eq!(
        (third.parcel.jobs()[0].hop.hand, third.parcel.jobs()[0].hop.busy),
        (0, 1)
    );
}

pub(super) async fn given_back_jobs_run_again(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    settle(
        &backend,
        &delivery,
        Verdict::GiveBack {
            fence,
            worker: worker(1),
        },
    )
    .await;
    assert_eq!(state(&backend, job).await, Some(State::Queued));
    let again = next(&mut consumer).await;
    assert_eq!(again.parcel.jobs()[0].attempt(), 1);
    run(&backend, &again, worker(1), 2).await;
}

pub(super) async fn long_runs_let_go(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    assert_eq!(settle(&backend, &delivery, Verdict::Detach).await, Settled::Done);
    if backend.facts().detach {
        let left = backend.pending(Vec::new()).await.expect("numbers");
        assert_eq!((left.ready, left.held), (0, 0), "its delivery is let go");
    }
    assert_eq!(state(&backend, job).await, Some(State::Running));
    assert_eq!(settle(&backend, &delivery, succeed(fence, "slow")).await, Settled::Done);
    assert_eq!(state(&backend, job).await, Some(State::Succeeded));
}
