//! What a job that ended leaves behind, and who is told.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::{Core, Fence, JobId, Leaving, Mailbox, Parcel, Payload, Receipt, State};

use super::SOON;
use super::steps::{
    act, consume, core, id, leave, log, log_of, next, nothing_comes, pass, push, push_one, run, seen, settle,
    settle_with_log, state, succeed, worker,
};
use crate::backend::{Act, Acted, Backend, Mail, Settled, Verdict};

pub(super) async fn results_come_back(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    for (n, result) in [(1, "small".to_owned()), (2, "big".repeat(100_000))] {
        let job = push_one(&backend, n).await;
        let delivery = next(&mut consumer).await;
        let fence = run(&backend, &delivery, worker(1), 1).await;
        assert_eq!(
            settle(&backend, &delivery, succeed(fence, &result)).await,
            Settled::Done
        );
        let view = backend
            .read(vec![job])
            .await
            .expect("a read")
            .pop()
            .flatten()
            .expect("it is there");
        assert_eq!(view.entry.state, State::Succeeded);
        assert_eq!(
            view.entry.result.expect("a result").decode::<String>().expect("text"),
            result
        );
    }
}

pub(super) async fn logs_stay_with_their_jobs(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    assert_eq!(log_of(&backend, job).await, None);
    let first = next(&mut consumer).await;
    let fence = run(&backend, &first, worker(1), 1).await;
    let (now, wait) = (backend.now(), Duration::from_secs(2));
    let retry = leave(fence, Leaving::Retry, now.plus(wait), now);
    settle_with_log(&backend, &first, retry, "one").await;
    assert_eq!(log_of(&backend, job).await, Some(log(1, "one")), "while it waits");

    pass(&backend, wait).await;
    let second = next(&mut consumer).await;
    let fence = run(&backend, &second, worker(1), 2).await;
    let late = Fence { token: 9, ..fence };
    let stale = settle_with_log(&backend, &second, succeed(late, "late"), "late").await;
    assert_eq!(stale, Settled::Stale);
    assert_eq!(log_of(&backend, job).await, Some(log(1, "one")), "not the stale one's");
    settle_with_log(&backend, &second, leave(fence, Leaving::Death, now, now), "two").await;
    assert_eq!(log_of(&backend, job).await, Some(log(2, "two")));

    assert_eq!(act(&backend, Act::Retry(job)).await, Acted::Done);
    assert_eq!(
        log_of(&backend, job).await,
        Some(log(2, "two")),
        "until it has run again"
    );
    let third = next(&mut consumer).await;
    let fence = run(&backend, &third, worker(1), 3).await;
    settle(&backend, &third, succeed(fence, "silent")).await;
    assert_eq!(log_of(&backend, job).await, None, "the last attempt was silent");

    let other = push_one(&backend, 2).await;
    let only = next(&mut consumer).await;
    let fence = run(&backend, &only, worker(1), 4).await;
    let cancelled = Verdict::Cancel {
        fence,
        note: None,
        receipt: Receipt::default(),
    };
    settle_with_log(&backend, &only, cancelled, "cut off").await;
    assert_eq!(log_of(&backend, other).await, Some(log(1, "cut off")));
    assert_eq!(act(&backend, Act::Drop(other)).await, Acted::Done);
    assert_eq!(log_of(&backend, other).await, None, "dropped with its job");
}

pub(super) async fn an_end_is_written_once(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let old = run(&backend, &delivery, worker(1), 1).await;
    let new = run(&backend, &delivery, worker(1), 2).await;
    assert_eq!(settle(&backend, &delivery, succeed(new, "new")).await, Settled::Done);
    assert_eq!(settle(&backend, &delivery, succeed(new, "again")).await, Settled::Done);
    assert_eq!(settle(&backend, &delivery, succeed(old, "old")).await, Settled::Stale);
    let view = backend
        .read(vec![job])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .expect("it is there");
    assert_eq!(
        view.entry.result.expect("a result").decode::<String>().expect("text"),
        "new"
    );
}

pub(super) async fn waiters_are_told(backend: Arc<dyn Backend>) {
    let (sender, stranger) = (Mailbox::from_random([8; 16]), Mailbox::from_random([9; 16]));
    let mut to_sender = backend.watch(sender).await.expect("a mailbox");
    let mut to_stranger = backend.watch(stranger).await.expect("a mailbox");
    push(
        &backend,
        vec![Core {
            mailbox: Some(sender),
            ..core(id(1), backend.now())
        }],
    )
    .await;
    seen(&backend, id(1)).await;
    assert_eq!(act(&backend, Act::Listen(id(1), stranger)).await, Acted::Done);
    assert_eq!(act(&backend, Act::Listen(id(7), stranger)).await, Acted::Unknown);
    let mut consumer = consume(&backend, worker(1)).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    settle(&backend, &delivery, succeed(fence, "told")).await;
    for mails in [&mut to_sender, &mut to_stranger] {
        let mail = tokio::time::timeout(SOON, mails.recv()).await.expect("mail in time");
        assert_eq!(mail, Some(Mail::Ended(id(1))));
    }
}

pub(super) async fn children_come_with_the_success(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 1).await;
    let child = JobId::child_of(id(1), "0");
    assert_eq!(state(&backend, child).await, None);
    let parcel = Parcel::pack(vec![core(child, backend.now())]).expect("one core");
    let result = Payload::encode("parent").expect("text encodes");
    let verdict = Verdict::Succeed {
        fence,
        result,
        receipt: Receipt::default(),
        children: vec![parcel],
    };
    settle(&backend, &delivery, verdict.clone()).await;
    settle(&backend, &delivery, verdict).await;
    assert_eq!(next(&mut consumer).await.parcel.jobs()[0].id(), child);
    nothing_comes(&mut consumer).await;
}
