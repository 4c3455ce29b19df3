//! What a newer producer may write, and an older worker hands on.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::{Meeting, Situation};
use millhand_proto::{JobCopy, JobId, Leaving, Parcel, State, Timestamp};

use super::steps::{
    act, consume, id, leave, meet, next, pass, push_parcel, run, seen, settle, situation, state, succeed, worker,
};
use crate::backend::{Act, Acted, Backend, Consumer, Delivery, Release, Settled, Verdict};

/// The shortest wait on every back end's way.
const WAIT: Duration = Duration::from_millis(200);

// MessagePack by hand, as other languages write it.

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(0xa0 | u8::try_from(text.len()).expect("a short text"));
    out.extend(text.bytes());
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend([0xc4, u8::try_from(bytes.len()).expect("few bytes")]);
    out.extend(bytes);
}

fn time(out: &mut Vec<u8>, time: Timestamp) {
    out.push(0xcf);
    out.extend(time.as_micros().to_be_bytes());
}

/// A map of fields, each a key and its value's bytes.
fn map(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0x80 | u8::try_from(fields.len()).expect("few fields")];
    for (key, value) in fields {
        text(&mut out, key);
        out.extend(value);
    }
    out
}

fn of(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A parcel of one job with keys that this build does not know in each of its maps.
struct Newer {
    header: Vec<u8>,
    core: Vec<u8>,
    /// What of its hop is not known here.
    unknown: Vec<u8>,
    parcel: Parcel,
}

impl Newer {
    /// `letter` begins the unknown keys: a capital one must be understood.
    fn write(id: JobId, now: Timestamp, letter: char, not_before: Option<Timestamp>) -> Self {
        let key = |rest: &str| format!("{letter}{rest}");
        let (odd, list, more) = (vec![0xcb], vec![0x93, 1, 0xc0, 0x80], vec![0xd9, 1, b'x']);
        let odd = [odd, 0.5_f64.to_be_bytes().to_vec()].concat();
        let common = [
            ("q", of(|out| text(out, "default"))),
            ("p", vec![1]),
            ("ea", of(|out| time(out, now))),
            // Reserved: kept for later.
            ("tp", of(|out| binary(out, &[1; 25]))),
        ];
        let header = map(&[("v", vec![1]), (&key("head"), odd), ("c", map(&common))]);
        let mut core = vec![
            ("i", of(|out| binary(out, id.as_bytes()))),
            // Behind a longer form than is needed.
            ("p", vec![0xcd, 0, 1]),
            ("t", of(|out| text(out, "act"))),
            ("wf", vec![0x92, 7, 8]),
            ("a", of(|out| binary(out, b"\xa4args"))),
        ];
        let own = key("core");
        core.insert(1, (&own, list));
        if let Some(due) = not_before {
            core.push(("nb", of(|out| time(out, due))));
        }
        let core = map(&core);
        let unknown = of(|out| {
            text(out, &key("hop"));
            out.extend(more);
        });
        let hop = [vec![0x81], unknown.clone()].concat();
        let job = of(|out| binary(out, &[core.clone(), hop].concat()));
        let bytes = [vec![0x92], header.clone(), vec![0x91], job].concat();
        let opened = Parcel::decode(&bytes.into()).expect("a parcel");
        assert_eq!(opened.bad, []);
        let parcel = opened.parcel.expect("its job");
        Self {
            header,
            core,
            unknown,
            parcel,
        }
    }

    /// The next delivery, in which nothing that is not this build's to change has changed.
    async fn comes(&self, consumer: &mut Consumer) -> Delivery {
        let delivery = next(consumer).await;
        assert_eq!(delivery.parcel.jobs().len(), 1);
        let bytes = delivery.parcel.encode();
        let core = bytes
            .strip_prefix(&[0x92])
            .and_then(|rest| rest.strip_prefix(&self.header[..]))
            .and_then(|rest| rest.strip_prefix(&[0x91, 0xc4]))
            .and_then(|rest| rest[1..].strip_prefix(&self.core[..]));
        let hop = core.unwrap_or_else(|| panic!("header or core changed: {bytes:x?}"));
        assert!(hop.ends_with(&self.unknown), "the hop lost something: {hop:x?}");
        delivery
    }
}

fn copy(delivery: &Delivery) -> &JobCopy {
    &delivery.parcel.jobs()[0]
}

pub(super) async fn unknown_fields_come_back_from_every_way(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    // Delayed, and made due by an operator.
    let far = backend.now().plus(Duration::from_secs(3600));
    let later = Newer::write(id(2), backend.now(), 'n', Some(far));
    push_parcel(&backend, later.parcel.clone()).await;
    assert_eq!(seen(&backend, id(2)).await.entry.state, State::Scheduled);
    assert_eq!(act(&backend, Act::RunNow(id(2))).await, Acted::Done);
    let delivery = later.comes(&mut consumer).await;
    settle(&backend, &delivery, Verdict::Acknowledge).await;
    // Delayed, and come due.
    let soon = Some(backend.now().plus(WAIT));
    let job = Newer::write(id(1), backend.now(), 'n', soon);
    push_parcel(&backend, job.parcel.clone()).await;
    pass(&backend, WAIT).await;
    let mut delivery = job.comes(&mut consumer).await;
    // Released.
    let until = || backend.now().plus(WAIT);
    let ways = [
        Release::Now,
        Release::Alone,
        Release::Busy(until()),
        Release::Parked(until()),
        Release::NotDue(until()),
    ];
    for way in ways {
        settle(&backend, &delivery, Verdict::Release(way)).await;
        pass(&backend, WAIT).await;
        delivery = job.comes(&mut consumer).await;
    }
    // Given back.
    let fence = run(&backend, &delivery, worker(1), 1).await;
    let worker = worker(1);
    settle(&backend, &delivery, Verdict::GiveBack { fence, worker }).await;
    delivery = job.comes(&mut consumer).await;
    // Snoozed, then tried again.
    for (token, why) in [(2, Leaving::Snooze), (3, Leaving::Retry)] {
        let fence = run(&backend, &delivery, worker, token).await;
        let now = backend.now();
        settle(&backend, &delivery, leave(fence, why, now.plus(WAIT), now)).await;
        pass(&backend, WAIT).await;
        delivery = job.comes(&mut consumer).await;
    }
    assert_eq!((copy(&delivery).hop.hand, copy(&delivery).attempt()), (2, 2));
    // Dead, and tried again by an operator.
    let fence = run(&backend, &delivery, worker, 4).await;
    let now = backend.now();
    settle(&backend, &delivery, leave(fence, Leaving::Death, now, now)).await;
    assert_eq!(state(&backend, id(1)).await, Some(State::Dead));
    assert_eq!(act(&backend, Act::Retry(id(1))).await, Acted::Done);
    delivery = job.comes(&mut consumer).await;
    let fence = run(&backend, &delivery, worker, 5).await;
    assert_eq!(
        settle(&backend, &delivery, succeed(fence, "whole")).await,
        Settled::Done
    );
    assert_eq!(state(&backend, id(1)).await, Some(State::Succeeded));
}

pub(super) async fn fields_that_must_be_understood_wait_for_who_does(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    let job = Newer::write(id(1), backend.now(), 'N', None);
    push_parcel(&backend, job.parcel.clone()).await;
    let mut delivery = job.comes(&mut consumer).await;
    for times in 1..=2 {
        let unknown: Vec<&str> = copy(&delivery).not_understood().collect();
        assert_eq!(unknown, ["Nhead", "Ncore", "Nhop"]);
        let why = Some(format!("field {} is not known here", unknown.join(", ")));
        let old = Situation {
            not_understood: why.clone(),
            ..situation(worker(1), 1)
        };
        let parked = meet(&backend, &delivery, old).await;
        assert!(matches!(parked, Meeting::Parked(_)), "{parked:?}");
        let until = backend.now().plus(WAIT);
        settle(&backend, &delivery, Verdict::Release(Release::Parked(until))).await;
        let entry = seen(&backend, id(1)).await.entry;
        assert_eq!((entry.state, entry.attempts, entry.claims), (State::Queued, 0, 0));
        assert_eq!(entry.parked.map(|note| note.why), why, "it is in sight");
        pass(&backend, WAIT).await;
        delivery = job.comes(&mut consumer).await;
        assert_eq!(copy(&delivery).hop.parked.map(|parked| parked.times), Some(times));
    }
    // A worker that knows them takes it, as its first attempt.
    assert_eq!(copy(&delivery).attempt(), 1);
    let fence = run(&backend, &delivery, worker(2), 2).await;
    settle(&backend, &delivery, succeed(fence, "understood")).await;
    assert_eq!(state(&backend, id(1)).await, Some(State::Succeeded));
}
