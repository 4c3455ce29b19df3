//! Several jobs in one parcel.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::Meeting;
use millhand_proto::{JobId, Leaving, State};

use super::steps::{consume, core, leave, next, push, settle_at, situation, succeed, worker};
use crate::backend::{Backend, Claim, Release, Settled, Settlement, Verdict};

pub(super) async fn parcels_end_job_by_job(backend: Arc<dyn Backend>) {
    let now = backend.now();
    push(&backend, (0..3).map(|i| core(JobId::minted(now, 1, i), now)).collect()).await;
    let mut consumer = consume(&backend, worker(1)).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.parcel.jobs().len(), 3);
    let copy = delivery.parcel.jobs()[1].clone();
    let claim = Claim {
        copy,
        situation: situation(worker(1), 1),
    };
    let answer = backend.claim(vec![claim]).await.expect("an answer").pop();
    let Some(Meeting::Run { fence, .. }) = answer else {
        panic!("leave to run was expected: {answer:?}")
    };
    settle_at(&backend, &delivery, 1, succeed(fence, "one of three")).await;
    settle_at(&backend, &delivery, 0, Verdict::Release(Release::Now)).await;
    let alone = next(&mut consumer).await;
    assert_eq!(alone.parcel.jobs().len(), 1, "a copy of one");
    // The worker goes: what is left of the parcel comes again, and the ended job is dropped.
    drop(consumer);
    backend.leave(worker(1)).await.expect("it leaves");
    let mut other = consume(&backend, worker(2)).await;
    let mut met = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut other).await;
        for copy in delivery.parcel.jobs() {
            let claim = Claim {
                copy: copy.clone(),
                situation: situation(worker(2), 9),
            };
            let answer = backend
                .claim(vec![claim])
                .await
                .expect("an answer")
                .pop()
                .expect("one answer");
            met.push((copy.id().index(), answer == Meeting::Drop));
        }
    }
    assert!(met.contains(&(1, true)), "the ended one is dropped: {met:?}");
    assert!(
        met.contains(&(2, false)),
        "the one that was never touched runs: {met:?}"
    );
}

pub(super) async fn jobs_of_a_parcel_go_together(backend: Arc<dyn Backend>) {
    let now = backend.now();
    let ids: Vec<JobId> = (0..5).map(|i| JobId::minted(now, 1, i)).collect();
    push(&backend, ids.iter().map(|id| core(*id, now)).collect()).await;
    let mut consumer = consume(&backend, worker(1)).await;
    let delivery = next(&mut consumer).await;
    let jobs = delivery.parcel.jobs();
    let claims = (1..).zip(jobs).map(|(token, copy)| Claim {
        copy: copy.clone(),
        situation: situation(worker(1), token),
    });
    let answers = backend.claim(claims.collect()).await.expect("answers");
    let settlements = jobs.iter().zip(answers).enumerate().map(|(at, (copy, answer))| {
        let Meeting::Run { fence, .. } = answer else {
            panic!("leave to run was expected: {answer:?}")
        };
        let verdict = match at {
            0 => leave(fence, Leaving::Death, now, now),
            1 => leave(fence, Leaving::Retry, now.plus(Duration::from_secs(60)), now),
            _ => succeed(fence, &format!("result {at}")),
        };
        Settlement {
            delivery: delivery.id,
            copy: copy.clone(),
            verdict,
            log: None,
        }
    });
    let settled = backend.settle(settlements.collect()).await.expect("they settle");
    assert_eq!(settled, [Settled::Done; 5]);
    let states = [
        State::Dead,
        State::Retrying,
        State::Succeeded,
        State::Succeeded,
        State::Succeeded,
    ];
    let views = backend.read(ids).await.expect("a read");
    for (at, (view, state)) in views.into_iter().zip(states).enumerate() {
        let entry = view.expect("it is known").entry;
        assert_eq!(entry.state, state);
        let result = entry.result.map(|r| r.decode::<String>().expect("text"));
        assert_eq!(result, (at > 1).then(|| format!("result {at}")));
    }
    let left = backend.pending(Vec::new()).await.expect("numbers");
    assert_eq!((left.ready, left.held), (0, 0), "the parcel is gone");
}

pub(super) async fn a_split_parcel_comes_alone(backend: Arc<dyn Backend>) {
    let now = backend.now();
    push(&backend, (0..3).map(|i| core(JobId::minted(now, 1, i), now)).collect()).await;
    let mut consumer = consume(&backend, worker(1)).await;
    let delivery = next(&mut consumer).await;
    let settlements = delivery.parcel.jobs().iter().map(|copy| Settlement {
        delivery: delivery.id,
        copy: copy.clone(),
        verdict: Verdict::Release(Release::Alone),
        log: None,
    });
    backend.settle(settlements.collect()).await.expect("they settle");
    let mut came = HashSet::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.parcel.jobs().len(), 1);
        came.insert(delivery.parcel.jobs()[0].id().index());
    }
    assert_eq!(came.len(), 3);
}
