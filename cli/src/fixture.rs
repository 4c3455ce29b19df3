//! Made-up jobs at fixed times, for the tests of what is printed.

use std::time::Duration;

use millhand_broker::{JobPage, JobView, QueueView, Unreadable};
use millhand_proto::record::ParkNote;
use millhand_proto::{
    AttemptEnd, AttemptLog, AttemptNote, Class, Core, Entry, ErrorText, JobCopy, JobId, LogLine, LogSource, Mailbox,
    Payload, Progress, QueueName, Receipt, RetryWish, State, TaskName, TimeLimits, Timestamp,
};

use crate::views::Beside;

/// When everything is looked at: 2031-02-03T04:05:06.789Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_927_857_906_789_012);

/// So many seconds before [`NOW`].
pub(crate) fn ago(secs: u64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() - i64::try_from(secs).unwrap() * 1_000_000)
}

pub(crate) fn soon(secs: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(secs))
}

pub(crate) fn job(number: u64, task: &str, state: State, age: u64) -> JobView {
    let args = Payload::json(format!(
        "{{\"n\": {number},\n \"big\": 123456789012345678901234567890}}"
    ))
    .unwrap();
    let core = Core {
        id: JobId::minted(ago(age), number, 0),
        task: TaskName::new(task).unwrap(),
        args: args.bytes.clone(),
        codec: args.codec.number(),
        task_version: 0,
        queue: QueueName::default(),
        class: Class::Normal,
        enqueued_at: ago(age),
        not_before: None,
        expires: None,
        limits: TimeLimits::default(),
        retry: RetryWish::default(),
        tags: vec![],
        parent: None,
        root: None,
        producer: None,
        mailbox: None,
        not_understood: vec![],
    };
    let entry = Entry {
        state,
        ..Entry::accepted(&JobCopy::first(core.clone()))
    };
    JobView {
        id: core.id,
        queue: core.queue,
        class: core.class,
        entry,
        args: Some(args),
    }
}

fn worker() -> Mailbox {
    Mailbox::from_bytes([7; 16])
}

fn note(number: u32, at: u64, end: AttemptEnd, error: &str, delay: Option<u64>) -> AttemptNote {
    let ended = ago(at).plus(Duration::from_millis(1200));
    AttemptNote {
        number,
        started: ago(at),
        ended,
        end,
        cause: None,
        error: Some(ErrorText::new(error)),
        worker: worker(),
        next: delay.map(|d| ended.plus(Duration::from_secs(d))),
    }
}

fn receipt() -> Receipt {
    Receipt {
        enqueue: 1_200,
        queue: 300_000,
        fetch: 90,
        room: 812,
        claim: 4_800,
        dispatch: 41_000,
        run: 600_000,
        cpu: Some(480_000),
        encode: 35,
        blocked: Some(43_000),
        start: Some(39_500),
        peak: Some(48 << 20),
    }
}

/// A log of twelve lines, and progress.
pub(crate) fn beside() -> Beside {
    let line = |n: u64| LogLine {
        after: (n - 1) * 100_000,
        source: [LogSource::Out, LogSource::Err, LogSource::Said][usize::try_from((n - 1) % 3).unwrap()],
        text: format!("line {n}\x1b[31m"),
    };
    Beside {
        log: Some(AttemptLog {
            attempt: 2,
            lines: (1..=12).map(line).collect(),
            dropped: 3,
        }),
        progress: Some((Progress { done: 42, total: 100 }, ago(3))),
    }
}

/// It failed twice and then succeeded.
pub(crate) fn third_time_lucky() -> JobView {
    let mut view = job(1, "wordcount", State::Succeeded, 90);
    let entry = &mut view.entry;
    entry.attempts = 3;
    entry.hand = 2;
    entry.owner = Some(worker());
    entry.started = Some(ago(41));
    entry.ended = Some(ago(40));
    entry.tags = vec!["blue".into(), "\x1b[31mred".into()];
    entry.notes = vec![
        note(1, 89, AttemptEnd::Failed, "no route to host", Some(12)),
        note(
            2,
            75,
            AttemptEnd::TimedOut,
            "no route to host\n  at \x07line 2",
            Some(25),
        ),
    ];
    entry.receipt = Some(receipt());
    entry.result = Some(Payload::encode(&("three", 3)).unwrap());
    view.args = None;
    view
}

pub(crate) fn dead() -> JobView {
    let mut view = job(2, "mail.send", State::Dead, 7_300);
    let entry = &mut view.entry;
    entry.attempts = 2;
    entry.started = Some(ago(7_000));
    entry.ended = Some(ago(6_998));
    entry.reason = Some("retries_exhausted".into());
    entry.crashes = 1;
    entry.conflicts = 2;
    entry.notes = vec![
        note(1, 7_100, AttemptEnd::Failed, "mailbox full", Some(90)),
        AttemptNote {
            cause: Some("SIGSEGV\x1b".into()),
            ..note(2, 7_000, AttemptEnd::Crashed, "signal 11", None)
        },
    ];
    view
}

pub(crate) fn every_state() -> Vec<JobView> {
    let mut scheduled = job(3, "report", State::Scheduled, 5);
    scheduled.entry.due = Some(soon(125));
    let queued = job(4, "report", State::Queued, 41);
    let mut parked = job(5, "unheard", State::Queued, 100);
    parked.entry.parked = Some(ParkNote {
        since: ago(90),
        times: 3,
        why: "task unheard is not known here".into(),
    });
    let mut running = job(6, "resize", State::Running, 12);
    running.entry.started = Some(ago(11));
    running.entry.attempts = 1;
    running.entry.cancel_asked = Some(ago(1));
    let mut retrying = job(7, "fetch", State::Retrying, 60);
    retrying.entry.attempts = 1;
    retrying.entry.due = Some(soon(9));
    let mut cancelled = job(8, "resize", State::Cancelled, 600);
    cancelled.entry.ended = Some(ago(599));
    cancelled.entry.reason = Some("purged".into());
    let mut expired = job(9, "resize", State::Expired, 100_000);
    expired.entry.ended = Some(ago(90_000));
    expired.entry.expires = Some(ago(90_001));
    expired.entry.reason = Some("expired".into());
    vec![
        scheduled,
        queued,
        parked,
        running,
        retrying,
        third_time_lucky(),
        dead(),
        cancelled,
        expired,
    ]
}

pub(crate) fn page() -> JobPage {
    JobPage {
        jobs: every_state(),
        more: false,
        looked_at: 9,
        complete: true,
    }
}

pub(crate) fn queues() -> Vec<QueueView> {
    let queue = |name: &str| QueueView {
        name: QueueName::new(name).unwrap(),
        trouble: None,
        queued: 12_410,
        scheduled: Some(3),
        held: 4,
        oldest: Some(ago(3_700)),
        paused: None,
        unreadable: vec![],
    };
    let bad = Unreadable {
        at: ago(10),
        reason: "values nest deeper\x1b than 64 levels".into(),
        bytes: 20_000,
    };
    let mail = QueueView {
        queued: 0,
        oldest: None,
        paused: Some(ago(60)),
        unreadable: vec![bad],
        ..queue("mail")
    };
    let odd = QueueView {
        trouble: Some("queue mh.main.1.q.odd.normal has other arguments".into()),
        queued: 0,
        oldest: None,
        ..queue("odd")
    };
    vec![queue("default"), mail, odd]
}
