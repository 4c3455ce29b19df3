//! What the cases are made of.

use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::{Meeting, Situation};
use millhand_proto::{
    AttemptEnd, AttemptLog, AttemptNote, Core, ErrorText, Fence, JobId, Leaving, LogLine, LogSource, Mailbox, Parcel,
    Payload, QueueName, Receipt, State, Successor, TaskName, Timestamp, WorkerId,
};

use super::SOON;
use crate::backend::{
    Act, Acted, Backend, Claim, Consumer, Delivery, Pushed, Settled, Settlement, Subscription, Verdict,
};
use crate::view::JobView;

pub(super) fn worker(n: u8) -> WorkerId {
    Mailbox::from_random([n; 16])
}

pub(super) fn id(n: u64) -> JobId {
    JobId::minted(Timestamp::MIN_WIRE, n, 0)
}

pub(super) fn core(id: JobId, now: Timestamp) -> Core {
    let task = TaskName::new("act").expect("a task name");
    Core {
        args: Payload::encode("args").expect("text encodes").bytes,
        ..Core::new(id, task, QueueName::default(), now)
    }
}

pub(super) async fn push(backend: &Arc<dyn Backend>, cores: Vec<Core>) {
    push_parcel(backend, Parcel::pack(cores).expect("cores that go together")).await;
}

pub(super) async fn push_parcel(backend: &Arc<dyn Backend>, parcel: Parcel) {
    assert_eq!(backend.push(vec![parcel]).await, [Pushed::Accepted]);
}

pub(super) async fn push_one(backend: &Arc<dyn Backend>, n: u64) -> JobId {
    push(backend, vec![core(id(n), backend.now())]).await;
    id(n)
}

pub(super) async fn consume(backend: &Arc<dyn Backend>, worker: WorkerId) -> Consumer {
    let subscription = Subscription {
        worker,
        queue: QueueName::default(),
        prefetch: 10,
    };
    backend.consume(subscription).await.expect("a consumer")
}

pub(super) async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(SOON, consumer.deliveries.recv())
        .await
        .expect("a delivery in time")
        .expect("a delivery")
}

pub(super) async fn nothing_comes(consumer: &mut Consumer) {
    let came = tokio::time::timeout(Duration::from_millis(150), consumer.deliveries.recv()).await;
    assert!(came.is_err(), "nothing was to come: {came:?}");
}

pub(super) fn situation(worker: WorkerId, token: u64) -> Situation {
    Situation::new(worker, token, Timestamp::default())
}

pub(super) async fn meet(backend: &Arc<dyn Backend>, delivery: &Delivery, situation: Situation) -> Meeting {
    let copy = delivery.parcel.jobs()[0].clone();
    let mut answers = backend.claim(vec![Claim { copy, situation }]).await.expect("an answer");
    answers.pop().expect("one answer")
}

pub(super) async fn run(backend: &Arc<dyn Backend>, delivery: &Delivery, worker: WorkerId, token: u64) -> Fence {
    match meet(backend, delivery, situation(worker, token)).await {
        Meeting::Run { fence, .. } => fence,
        other => panic!("leave to run was expected: {other:?}"),
    }
}

pub(super) async fn settle(backend: &Arc<dyn Backend>, delivery: &Delivery, verdict: Verdict) -> Settled {
    settle_at(backend, delivery, 0, verdict).await
}

pub(super) async fn settle_at(backend: &Arc<dyn Backend>, delivery: &Delivery, at: usize, verdict: Verdict) -> Settled {
    let copy = delivery.parcel.jobs()[at].clone();
    settle_one(
        backend,
        Settlement {
            delivery: delivery.id,
            copy,
            verdict,
            log: None,
        },
    )
    .await
}

/// Settles a delivery of one job with the log of its attempt.
pub(super) async fn settle_with_log(
    backend: &Arc<dyn Backend>,
    delivery: &Delivery,
    verdict: Verdict,
    text: &str,
) -> Settled {
    let copy = delivery.parcel.jobs()[0].clone();
    let log = Some(log(copy.attempt(), text).encode().into());
    let delivery = delivery.id;
    settle_one(
        backend,
        Settlement {
            delivery,
            copy,
            verdict,
            log,
        },
    )
    .await
}

pub(super) async fn settle_one(backend: &Arc<dyn Backend>, settlement: Settlement) -> Settled {
    backend
        .settle(vec![settlement])
        .await
        .expect("it settles")
        .pop()
        .expect("one answer")
}

/// A log of one line.
pub(super) fn log(attempt: u32, text: &str) -> AttemptLog {
    let text = text.to_owned();
    AttemptLog {
        attempt,
        lines: vec![LogLine {
            after: 1500,
            source: LogSource::Err,
            text,
        }],
        dropped: 2,
    }
}

pub(super) async fn log_of(backend: &Arc<dyn Backend>, id: JobId) -> Option<AttemptLog> {
    backend.log(id).await.expect("a read")
}

pub(super) fn succeed(fence: Fence, result: &str) -> Verdict {
    let result = Payload::encode(result).expect("text encodes");
    Verdict::Succeed {
        fence,
        result,
        receipt: Receipt::default(),
        children: Vec::new(),
    }
}

pub(super) fn leave(fence: Fence, why: Leaving, due: Timestamp, now: Timestamp) -> Verdict {
    let note = AttemptNote {
        number: 1,
        started: now,
        ended: now,
        end: if why == Leaving::Snooze {
            AttemptEnd::Snoozed
        } else {
            AttemptEnd::Failed
        },
        cause: None,
        error: Some(ErrorText::new("no")),
        worker: worker(1),
        next: Some(due),
    };
    let reason = (why == Leaving::Death).then(|| "failed".to_owned());
    Verdict::Leave {
        fence: Some(fence),
        successor: Successor { why, due },
        reason,
        note: Some(note),
        receipt: None,
    }
}

pub(super) async fn state(backend: &Arc<dyn Backend>, id: JobId) -> Option<State> {
    backend
        .read(vec![id])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .map(|view| view.entry.state)
}

/// A job's view, as soon as there is one: the store may learn of it a moment after the queue.
pub(super) async fn seen(backend: &Arc<dyn Backend>, id: JobId) -> JobView {
    let looked = async {
        loop {
            backend.flush().await;
            if let Some(view) = backend.read(vec![id]).await.expect("a read").pop().flatten() {
                return view;
            }
        }
    };
    tokio::time::timeout(SOON, looked).await.expect("it is seen in time")
}

pub(super) async fn act(backend: &Arc<dyn Backend>, act: Act) -> Acted {
    backend.act(vec![act]).await.expect("an act").pop().expect("one answer")
}

/// Lets `span` pass: by moving a standing clock, else by waiting.
pub(super) async fn pass(backend: &Arc<dyn Backend>, span: Duration) {
    if !backend.advance_to(backend.now().plus(span)) {
        tokio::time::sleep(span).await;
    }
}
