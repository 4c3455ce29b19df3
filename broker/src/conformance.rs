//! The suite that every back end passes: one entry, [`exercise`]. Differences between back ends are
//! declared in their [`Facts`], and [`table`] prints them for `docs/backends.md`.

mod newer;

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use millhand_proto::protocol::{Meeting, Situation};
use millhand_proto::{
    AttemptEnd, AttemptLog, AttemptNote, Core, Count, ErrorText, Executor, Fence, JobId, Leaving, LogLine, LogSource,
    Mailbox, Parcel, Payload, Progress, QueueName, Receipt, State, Successor, Tally, TaskName, Timestamp, WorkerId,
    limits,
};

use crate::backend::{
    Act, Acted, Backend, BoxFuture, Claim, Consumer, Control, Delivery, Facts, Mail, Pushed, Release, Settled,
    Settlement, Subscription, Verdict,
};
use crate::view::{JobFilter, JobView, LongPoll, LoopLag, WorkerBeat, WorkerHealth};
use newer::{fields_that_must_be_understood_wait_for_who_does, unknown_fields_come_back_from_every_way};

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(10);

/// Opens a fresh, empty back end each time.
pub type Fresh<'a> = dyn Fn() -> Arc<dyn Backend> + 'a;

/// One promise, and the check of it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The promise in words.
    pub promise: &'static str,
    run: fn(Arc<dyn Backend>) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($name:ident: $promise:literal,)+) => {
        /// All cases.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($name), promise: $promise, run: |backend| Box::pin($name(backend)) },)+
        ];
    };
}

cases! {
    pushed_jobs_are_seen: "a job that was accepted is queued until it runs",
    delivered_to_one: "each parcel is delivered to one consumer at a time",
    claimed_by_one: "one worker runs a job; another that meets a copy of it finds it busy",
    a_repeated_claim_is_the_same: "a claim that is asked again with its token gets the same fence",
    results_come_back: "results come back as they were, small and big",
    logs_stay_with_their_jobs: "what the last attempt printed and said is kept as long as its job is remembered; the log of an outcome that was thrown away is not",
    an_end_is_written_once: "an end that is written again changes nothing; an older claim's end is thrown away",
    retries_wait_for_their_time: "a retry is the next hand, is not delivered before it is due, and keeps the history",
    a_scheduled_job_runs_now: "a scheduled job keeps its arguments and can be run now; its other copy is dropped",
    long_runs_let_go: "a job that runs long lets go of its delivery, where one is held at a cost, and ends once",
    a_split_parcel_comes_alone: "jobs that are released alone come in parcels of their own",
    a_snooze_counts_no_attempt: "a snoozed job comes again as the same attempt",
    the_dead_keep_their_arguments: "a dead job keeps its arguments, and an operator's retry runs it again",
    released_copies_come_again: "a released copy comes again with its hand",
    given_back_jobs_run_again: "a run that was interrupted is given back and runs again, uncounted",
    parcels_end_job_by_job: "a parcel of several jobs is held until each of its jobs is settled",
    jobs_of_a_parcel_go_together: "jobs of one parcel are claimed and settled in one call, each with its own answer",
    the_same_id_is_one_job: "a second copy of a job that ended is dropped",
    cancelled_before_the_start: "a cancelled job does not start",
    cancelled_while_running: "a cancel of a running job reaches its worker",
    expired_jobs_do_not_start: "a job that is too late expires",
    unknown_jobs_are_parked: "a job that the worker does not know is parked and comes again",
    unknown_fields_come_back_from_every_way: "what a newer producer wrote and this version does not know comes back byte for byte from a delay, a release, a give-back, a snooze, a retry, a death and an operator's retry",
    fields_that_must_be_understood_wait_for_who_does: "a job with a field that must be understood waits in sight, uncounted and unchanged, for a worker that does",
    a_paused_queue_delivers_nothing: "a paused queue delivers nothing; a resumed one goes on",
    workers_are_seen: "a worker that beats is listed with what it says of itself and of its jobs, and learns which of its queues are paused; one that left is not",
    a_purge_cancels_what_waits: "a purge cancels what waits and is due, and nothing else",
    waiters_are_told: "the mailbox in a job, and any that listens later, is told of its end",
    children_come_with_the_success: "jobs that a job enqueued are there when it has succeeded, and only then",
    numbers_add_up: "what workers count is added up by minute, queue and task, once for each token, and read back for the minutes asked for",
    lists_filter: "lists filter by state, task and queue, newest first, and say when there is more",
    dropped_jobs_are_forgotten: "an ended job can be forgotten, a waiting one not",
    nothing_is_known_of_strangers: "of an id that was never enqueued nothing is known",
}

/// Runs every case on a back end of its own.
///
/// # Panics
/// When a promise is broken; the message names the case.
pub async fn exercise(fresh: &Fresh<'_>) {
    for case in CASES {
        let backend = fresh();
        let run = tokio::spawn((case.run)(backend));
        match tokio::time::timeout(SOON * 3, run).await {
            Ok(Ok(())) => {}
            Ok(Err(broken)) => panic!("{}: {} ({broken})", case.name, case.promise),
            Err(_) => panic!("{}: it did not end", case.name),
        }
    }
}

/// The page `docs/backends.md`: what all back ends promise, and where they differ.
#[must_use]
pub fn table(facts: &[Facts]) -> String {
    let mut page = String::from(
        "# Back ends\n\nPrinted by the conformance suite (`MILLHAND_BLESS=1 cargo test -p millhand-broker`); \
         the tests fail when it differs.\n\n## What they all promise\n\n",
    );
    for case in CASES {
        let _ = writeln!(page, "- {}.", case.promise);
    }
    page.push_str("\n## Where they differ\n\n| |");
    for fact in facts {
        let _ = write!(page, " `{}:` |", fact.kind);
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(facts.len()));
    type Say = fn(&Facts) -> String;
    let rows: [(&str, Say); 7] = [
        ("accepted jobs outlive the process", |f| {
            if f.durable { "yes".into() } else { "no".into() }
        }),
        ("several processes at once", |f| {
            if f.shared { "yes".into() } else { "no".into() }
        }),
        ("a dead worker's jobs run again within", |f| {
            if f.notices_death_within.is_zero() {
                "dies with its jobs".into()
            } else {
                format!("{:?}", f.notices_death_within)
            }
        }),
        ("long jobs let go of their delivery (detach)", |f| {
            if f.detach {
                "yes".into()
            } else {
                "no: it is held, at no cost".into()
            }
        }),
        ("arguments can be looked at", |f| {
            if f.keeps_waiting_arguments {
                "of waiting and dead jobs".into()
            } else {
                "of delayed and dead jobs".into()
            }
        }),
        ("a cancel of a job that was never seen", |f| {
            if f.cancels_strangers {
                "stands, since a copy may come".into()
            } else {
                "is answered \"unknown\"".into()
            }
        }),
        ("a queue's length and a purge count", |f| {
            format!("{}s", f.counts.word())
        }),
    ];
    for (name, say) in rows {
        let _ = write!(page, "\n| {name} |");
        for fact in facts {
            let _ = write!(page, " {} |", say(fact));
        }
    }
    page.push('\n');
    page
}

// What the cases are made of.

fn worker(n: u8) -> WorkerId {
    Mailbox::from_random([n; 16])
}

fn id(n: u64) -> JobId {
    JobId::minted(Timestamp::MIN_WIRE, n, 0)
}

fn core(id: JobId, now: Timestamp) -> Core {
    let task = TaskName::new("act").expect("a task name");
    Core {
        args: Payload::encode("args").expect("text encodes").bytes,
        ..Core::new(id, task, QueueName::default(), now)
    }
}

async fn push(backend: &Arc<dyn Backend>, cores: Vec<Core>) {
    push_parcel(backend, Parcel::pack(cores).expect("cores that go together")).await;
}

async fn push_parcel(backend: &Arc<dyn Backend>, parcel: Parcel) {
    assert_eq!(backend.push(vec![parcel]).await, [Pushed::Accepted]);
}

async fn push_one(backend: &Arc<dyn Backend>, n: u64) -> JobId {
    push(backend, vec![core(id(n), backend.now())]).await;
    id(n)
}

async fn consume(backend: &Arc<dyn Backend>, worker: WorkerId) -> Consumer {
    let subscription = Subscription {
        worker,
        queue: QueueName::default(),
        prefetch: 10,
    };
    backend.consume(subscription).await.expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(SOON, consumer.deliveries.recv())
        .await
        .expect("a delivery in time")
        .expect("a delivery")
}

async fn nothing_comes(consumer: &mut Consumer) {
    let came = tokio::time::timeout(Duration::from_millis(150), consumer.deliveries.recv()).await;
    assert!(came.is_err(), "nothing was to come: {came:?}");
}

fn situation(worker: WorkerId, token: u64) -> Situation {
    Situation {
        worker,
        owner_alive: false,
        running_here: false,
        suspect_here: false,
        not_understood: None,
        hard_limit: None,
        token,
        now: Timestamp::default(),
    }
}

async fn meet(backend: &Arc<dyn Backend>, delivery: &Delivery, situation: Situation) -> Meeting {
    let copy = delivery.parcel.jobs()[0].clone();
    let mut answers = backend.claim(vec![Claim { copy, situation }]).await.expect("an answer");
    answers.pop().expect("one answer")
}

async fn run(backend: &Arc<dyn Backend>, delivery: &Delivery, worker: WorkerId, token: u64) -> Fence {
    match meet(backend, delivery, situation(worker, token)).await {
        Meeting::Run { fence, .. } => fence,
        other => panic!("leave to run was expected: {other:?}"),
    }
}

async fn settle(backend: &Arc<dyn Backend>, delivery: &Delivery, verdict: Verdict) -> Settled {
    settle_at(backend, delivery, 0, verdict).await
}

async fn settle_at(backend: &Arc<dyn Backend>, delivery: &Delivery, at: usize, verdict: Verdict) -> Settled {
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
async fn settle_with_log(backend: &Arc<dyn Backend>, delivery: &Delivery, verdict: Verdict, text: &str) -> Settled {
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

async fn settle_one(backend: &Arc<dyn Backend>, settlement: Settlement) -> Settled {
    backend
        .settle(vec![settlement])
        .await
        .expect("it settles")
        .pop()
        .expect("one answer")
}

/// A log of one line.
fn log(attempt: u32, text: &str) -> AttemptLog {
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

async fn log_of(backend: &Arc<dyn Backend>, id: JobId) -> Option<AttemptLog> {
    backend.log(id).await.expect("a read")
}

fn succeed(fence: Fence, result: &str) -> Verdict {
    let result = Payload::encode(result).expect("text encodes");
    Verdict::Succeed {
        fence,
        result,
        receipt: Receipt::default(),
        children: Vec::new(),
    }
}

fn leave(fence: Fence, why: Leaving, due: Timestamp, now: Timestamp) -> Verdict {
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

async fn state(backend: &Arc<dyn Backend>, id: JobId) -> Option<State> {
    backend
        .read(vec![id])
        .await
        .expect("a read")
        .pop()
        .flatten()
        .map(|view| view.entry.state)
}

/// A job's view, as soon as there is one: the store may learn of it a moment after the queue.
async fn seen(backend: &Arc<dyn Backend>, id: JobId) -> JobView {
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

async fn act(backend: &Arc<dyn Backend>, act: Act) -> Acted {
    backend.act(vec![act]).await.expect("an act").pop().expect("one answer")
}

/// Lets `span` pass: by moving a standing clock, else by waiting.
async fn pass(backend: &Arc<dyn Backend>, span: Duration) {
    if !backend.advance_to(backend.now().plus(span)) {
        tokio::time::sleep(span).await;
    }
}

// The cases.

async fn pushed_jobs_are_seen(backend: Arc<dyn Backend>) {
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

async fn delivered_to_one(backend: Arc<dyn Backend>) {
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

async fn claimed_by_one(backend: Arc<dyn Backend>) {
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

async fn a_repeated_claim_is_the_same(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let delivery = next(&mut consumer).await;
    let fence = run(&backend, &delivery, worker(1), 5).await;
    assert_eq!(run(&backend, &delivery, worker(1), 5).await, fence);
    let newer = run(&backend, &delivery, worker(1), 6).await;
    assert!(newer.claim > fence.claim, "not known here any more: a new claim");
}

async fn results_come_back(backend: Arc<dyn Backend>) {
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

async fn logs_stay_with_their_jobs(backend: Arc<dyn Backend>) {
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

async fn an_end_is_written_once(backend: Arc<dyn Backend>) {
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

async fn retries_wait_for_their_time(backend: Arc<dyn Backend>) {
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

async fn a_scheduled_job_runs_now(backend: Arc<dyn Backend>) {
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

async fn long_runs_let_go(backend: Arc<dyn Backend>) {
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

async fn a_split_parcel_comes_alone(backend: Arc<dyn Backend>) {
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

async fn a_snooze_counts_no_attempt(backend: Arc<dyn Backend>) {
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

async fn the_dead_keep_their_arguments(backend: Arc<dyn Backend>) {
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

async fn released_copies_come_again(backend: Arc<dyn Backend>) {
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

async fn given_back_jobs_run_again(backend: Arc<dyn Backend>) {
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

async fn parcels_end_job_by_job(backend: Arc<dyn Backend>) {
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

async fn jobs_of_a_parcel_go_together(backend: Arc<dyn Backend>) {
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

async fn the_same_id_is_one_job(backend: Arc<dyn Backend>) {
    let mut consumer = consume(&backend, worker(1)).await;
    push_one(&backend, 1).await;
    let first = next(&mut consumer).await;
    let fence = run(&backend, &first, worker(1), 1).await;
    settle(&backend, &first, succeed(fence, "once")).await;
    push_one(&backend, 1).await;
    let second = next(&mut consumer).await;
    assert_eq!(meet(&backend, &second, situation(worker(1), 2)).await, Meeting::Drop);
}

async fn cancelled_before_the_start(backend: Arc<dyn Backend>) {
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

async fn cancelled_while_running(backend: Arc<dyn Backend>) {
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

async fn expired_jobs_do_not_start(backend: Arc<dyn Backend>) {
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

async fn unknown_jobs_are_parked(backend: Arc<dyn Backend>) {
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

async fn a_paused_queue_delivers_nothing(backend: Arc<dyn Backend>) {
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

async fn workers_are_seen(backend: Arc<dyn Backend>) {
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

async fn a_purge_cancels_what_waits(backend: Arc<dyn Backend>) {
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

async fn waiters_are_told(backend: Arc<dyn Backend>) {
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

async fn children_come_with_the_success(backend: Arc<dyn Backend>) {
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

async fn numbers_add_up(backend: Arc<dyn Backend>) {
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

async fn lists_filter(backend: Arc<dyn Backend>) {
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

async fn dropped_jobs_are_forgotten(backend: Arc<dyn Backend>) {
    let job = push_one(&backend, 1).await;
    seen(&backend, job).await;
    assert!(matches!(act(&backend, Act::Drop(job)).await, Acted::Refused(_)));
    assert_eq!(act(&backend, Act::Cancel(job)).await, Acted::Done);
    assert_eq!(act(&backend, Act::Drop(job)).await, Acted::Done);
    assert_eq!(state(&backend, job).await, None);
}

async fn nothing_is_known_of_strangers(backend: Arc<dyn Backend>) {
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
