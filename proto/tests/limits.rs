//! Each limit at it and one past it, and `docs/limits.md`, which is written from the table that the code uses:
//! `MILLHAND_BLESS=1 cargo test -p millhand-proto --test limits` writes it anew.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{EA, V, core, header, id, job, parcel, with};
use millhand_proto::limits::{self, TABLE};
use millhand_proto::protocol::{
    Decision, Ended, Meeting, Situation, Suspicion, decide, meet, must_split, park, suspicion,
};
use millhand_proto::{
    AttemptEnd, AttemptNote, Codec, CrashCause, Entry, ErrorText, JobCopy, Leaving, Mailbox, NameError, Outcome,
    Parcel, Parked, Payload, QueueName, RetryPolicy, State, TaskName, Timestamp, WireError, WorkerId,
};

/// Where a limit is tested.
enum Tested {
    /// At it and one past it, or just before a span ends and when it has.
    Edge(&'static str, &'static str),
    /// It holds, but no test stands at its edge, since that would take its time or its memory.
    Holds(&'static str, &'static str),
    /// It is a number that others are made of; no test of its own.
    No,
}
use Tested::{Edge, Holds, No};

const HERE: &str = "proto/tests/limits.rs";
const BAD: &str = "proto/tests/bad_input.rs";

/// A limit that is added without a line here fails the test below.
const TESTED: &[(&str, Tested)] = &[
    ("name", Edge(HERE, "names")),
    ("arguments", Edge("client/src/job.rs", "limits_at_their_edge")),
    ("result", Edge(HERE, "results")),
    ("message", Edge(HERE, "messages")),
    (
        "parcel",
        Edge(
            "client/src/pack.rs",
            "a_parcel_is_full_to_the_byte_and_a_bigger_job_travels_alone",
        ),
    ),
    ("jobs in a parcel", Edge(BAD, "how_many_jobs")),
    ("depth", Edge(BAD, "depth")),
    ("tags", Edge(HERE, "tags")),
    ("tag", Edge(HERE, "tags")),
    ("error text", Edge(HERE, "error_texts")),
    ("inline value", Edge(HERE, "inline_values")),
    ("attempt notes", Edge(HERE, "attempt_notes")),
    ("waiters", Edge(HERE, "waiters")),
    (
        "children",
        Edge("worker/src/context.rs", "a_second_run_enqueues_the_same_children"),
    ),
    (
        "children, bytes",
        Edge(
            "worker/src/context.rs",
            "the_children_of_one_attempt_are_bounded_in_bytes",
        ),
    ),
    ("retries", Edge(HERE, "retries")),
    (
        "first retry delay",
        Edge(
            "proto/src/policy.rs",
            "delays_double_between_half_and_cap_and_take_about_48_minutes",
        ),
    ),
    (
        "longest retry delay",
        Edge(
            "proto/src/policy.rs",
            "delays_double_between_half_and_cap_and_take_about_48_minutes",
        ),
    ),
    ("horizon", Edge("client/src/job.rs", "limits_at_their_edge")),
    (
        "process time limit",
        Holds("worker/src/registry.rs", "handlers_decode_run_and_encode"),
    ),
    ("retention, succeeded", Edge(HERE, "retention")),
    ("retention, others", Edge(HERE, "retention")),
    ("parked, first wait", Edge(HERE, "parking")),
    ("parked, longest wait", Edge(HERE, "parking")),
    ("parked, in all", Edge(HERE, "parking")),
    (
        "lease",
        Edge("broker/src/pair/trust.rs", "who_was_late_judges_nobody_for_a_lease"),
    ),
    (
        "beat",
        Edge("worker/src/dispatch/tests.rs", "a_worker_beats_at_its_times"),
    ),
    (
        "publish",
        Edge(
            "broker/src/rabbitmq/outbox.rs",
            "what_is_not_published_in_time_is_refused",
        ),
    ),
    (
        "waiting to be published",
        Edge("broker/src/rabbitmq/outbox.rs", "what_is_more_than_may_wait_is_refused"),
    ),
    (
        "heartbeat",
        Holds("broker/src/rabbitmq/link.rs", "the_address_may_say_another_heartbeat"),
    ),
    (
        "answer of Redis",
        Holds(
            "broker/src/redis/tests.rs",
            "a_server_that_answers_nothing_is_left_and_found_again",
        ),
    ),
    (
        "detach",
        Edge(
            "worker/src/crew.rs",
            "a_run_that_lasts_is_to_let_go_of_its_delivery_once",
        ),
    ),
    ("deadline grace", Edge(HERE, "busy_and_deadlines")),
    ("open deadline", Edge(HERE, "busy_and_deadlines")),
    ("suspect", Edge(HERE, "suspects")),
    (
        "suspect, wait",
        Edge(
            "proto/src/protocol/meet.rs",
            "a_suspect_that_finds_another_one_is_not_claimed_and_counts_no_death_for_it",
        ),
    ),
    ("suspect deaths", Edge(HERE, "suspects")),
    (
        "log of an attempt",
        Edge("worker/src/log.rs", "a_log_is_full_to_the_byte"),
    ),
    (
        "line of a log",
        Edge("worker/src/log.rs", "a_line_is_cut_when_it_is_too_long"),
    ),
    (
        "progress",
        Edge("worker/src/crew.rs", "progress_is_told_of_those_that_run_longest"),
    ),
    (
        "beside the socket",
        Edge(
            "worker/src/executors/processes/service.rs",
            "big_arguments_go_beside_the_socket",
        ),
    ),
    (
        "by descriptor, at most",
        Edge(
            "worker/src/executors/processes/service.rs",
            "big_arguments_go_beside_the_socket",
        ),
    ),
    (
        "jobs in a child",
        Edge("worker/src/executors/frames.rs", "lists_end_at_their_limits"),
    ),
    ("idle child", No),
    (
        "start of a child",
        Holds(
            "worker/src/executors/tests/children.rs",
            "every_way_to_break_a_child_is_told_apart_and_costs_nobody_else_anything",
        ),
    ),
    ("crashes", Edge(HERE, "crashes")),
    (
        "blocking poll",
        Edge(
            "worker/src/executors/watchdog.rs",
            "a_poll_is_long_when_it_lasts_longer_than_the_limit",
        ),
    ),
    (
        "leaked thread",
        Edge(
            "worker/src/executors/tests/watched.rs",
            "a_thread_that_ignores_its_cancel_is_leaked_until_it_ends",
        ),
    ),
    (
        "room wait",
        Edge("worker/src/room.rs", "one_job_that_waited_too_long_takes_its_line_back"),
    ),
    (
        "room",
        Edge(
            "worker/src/room.rs",
            "jobs_that_take_as_long_as_the_room_have_one_place_for_each_slot",
        ),
    ),
    ("async slots", No),
    (
        "settle window",
        Edge(
            "worker/src/dispatch/tests.rs",
            "four_jobs_for_each_slot_may_wait_to_be_remembered_and_no_more_than_the_window",
        ),
    ),
    (
        "shutdown grace",
        Holds(
            "tests/trouble/lossy_backend.rs",
            "a_worker_stops_even_if_nothing_can_be_settled",
        ),
    ),
    ("split", Edge(HERE, "splitting")),
    (
        "unreadable parcels",
        Edge(
            "broker/src/local/engine/tests.rs",
            "the_newest_unreadable_parcels_are_kept",
        ),
    ),
    (
        "unreadable, bytes",
        Edge("broker/src/unreadable.rs", "of_what_holds_none_the_beginning_is_kept"),
    ),
    ("unreadable, notes", No),
    (
        "unreadable, shown",
        Edge("broker/src/view.rs", "a_queue_shows_its_newest_unreadable_messages"),
    ),
    (
        "retention, statistics",
        Edge("broker/src/local.rs", "numbers_of_a_day_are_kept"),
    ),
    (
        "list",
        Edge(
            "broker/src/local/engine/tests.rs",
            "a_list_says_when_it_has_not_looked_at_everything",
        ),
    ),
    (
        "health connections",
        Edge(
            "worker/src/health/http/tests.rs",
            "one_connection_more_than_there_may_be_ends_the_oldest",
        ),
    ),
    (
        "health connection",
        Holds(
            "worker/src/health/http/tests.rs",
            "who_sends_slowly_is_cut_off_and_keeps_nobody_waiting",
        ),
    ),
    (
        "settings file",
        Edge("cli/src/settings/tests.rs", "a_file_without_an_end_is_no_settings_file"),
    ),
];

fn document() -> String {
    let mut text = String::from(
        "# Limits\n\n\
         Every limit and default: the table that the code itself uses, as `millhand limits` prints it. A test keeps this\n\
         page the same (`proto/tests/limits.rs`). *Tested at its edge*: at it and one past it, or just before a span ends\n\
         and when it has. *Holds*: there is a test, and none at the edge.\n\n\
         | limit | value | what it bounds, and what happens beyond | tested |\n|---|---|---|---|\n",
    );
    for limit in TABLE {
        let tested = TESTED
            .iter()
            .find(|(name, _)| *name == limit.name)
            .map(|(_, tested)| tested);
        let tested = match tested.unwrap_or_else(|| panic!("limit {:?} has no test", limit.name)) {
            Edge(file, test) => format!("at its edge: `{file}`, `{test}`"),
            Holds(file, test) => format!("holds: `{file}`, `{test}`"),
            No => "no test of its own".to_owned(),
        };
        writeln!(
            text,
            "| {} | {} | {} | {tested} |",
            limit.name, limit.value, limit.meaning
        )
        .unwrap();
    }
    text
}

#[test]
fn every_limit_says_where_it_is_tested_and_the_page_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, tested) in TESTED {
        assert!(
            TABLE.iter().any(|limit| limit.name == *name),
            "there is no limit {name:?}"
        );
        if let Edge(file, test) | Holds(file, test) = tested {
            let source = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
        }
    }
    let (page, text) = (root.join("docs/limits.md"), document());
    if std::env::var_os("MILLHAND_BLESS").is_some() {
        std::fs::write(&page, &text).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(page).unwrap_or_default(),
        text,
        "docs/limits.md is not up to date"
    );
}

const SECOND: Duration = Duration::from_secs(1);

fn now() -> Timestamp {
    Timestamp::from_micros(i64::try_from(EA).unwrap())
}

fn worker() -> WorkerId {
    WorkerId::from_bytes([7; 16])
}

fn copy() -> JobCopy {
    let bytes = parcel(&header(), vec![job(&core(0), &vec![])]);
    let parcel = Parcel::decode(&bytes.into()).unwrap().parcel.unwrap();
    parcel.into_jobs().remove(0)
}

fn opens(core: &common::Fields) -> bool {
    Parcel::decode(&parcel(&header(), vec![job(core, &vec![])]).into())
        .unwrap()
        .bad
        .is_empty()
}

fn ended(outcome: Outcome, copy: &JobCopy, crashes: u32) -> Decision {
    let ended = Ended {
        worker: worker(),
        started: now(),
        now: now(),
        crashes,
        most_crashes: limits::CRASHES,
        cancel_asked: false,
        seed: 0,
    };
    decide(outcome, copy, RetryPolicy::default(), ended)
}

/// Why the job is dead, if it is.
fn death(decision: Decision) -> Option<String> {
    match decision {
        Decision::Leave { successor, reason, .. } if successor.why == Leaving::Death => reason,
        _ => None,
    }
}

#[test]
fn names() {
    let name = |len| TaskName::new(&"a".repeat(len));
    assert!(name(limits::NAME_BYTES).is_ok());
    let past: NameError = name(limits::NAME_BYTES + 1).unwrap_err();
    assert!(past.to_string().contains("64"), "{past}");
    assert!(QueueName::new(&"a".repeat(limits::NAME_BYTES)).is_ok());
    assert!(QueueName::new(&"a".repeat(limits::NAME_BYTES + 1)).is_err());
}

#[test]
fn results() {
    let succeeded = |len| {
        let bytes = Bytes::from(vec![b'1'; len]);
        ended(
            Outcome::Succeeded(Payload {
                codec: Codec::Json,
                bytes,
            }),
            &copy(),
            0,
        )
    };
    assert!(matches!(succeeded(limits::RESULT_BYTES), Decision::Succeed(_)));
    assert_eq!(
        death(succeeded(limits::RESULT_BYTES + 1)).as_deref(),
        Some("result_too_big")
    );
}

#[test]
fn messages() {
    let of = |args| {
        parcel(
            &header(),
            vec![job(&with(&core(0), "a", V::Bin(vec![0; args])), &vec![])],
        )
    };
    let rest = of(1 << 20).len() - (1 << 20);
    let message = of(limits::MESSAGE_BYTES - rest);
    assert_eq!(message.len(), limits::MESSAGE_BYTES);
    assert!(Parcel::decode(&message.into()).unwrap().bad.is_empty());
    let past = limits::MESSAGE_BYTES + 1;
    assert_eq!(Parcel::decode(&of(past - rest).into()), Err(WireError::TooLong(past)));
}

#[test]
fn tags() {
    let text: &'static str = Box::leak("a".repeat(limits::TAG_BYTES + 1).into_boxed_str());
    let tags = |count: usize, len: usize| with(&core(0), "tg", V::Arr(vec![V::S(&text[..len]); count]));
    assert!(opens(&tags(limits::TAGS, limits::TAG_BYTES)));
    assert!(!opens(&tags(limits::TAGS + 1, 1)));
    assert!(!opens(&tags(1, limits::TAG_BYTES + 1)));
}

#[test]
fn error_texts() {
    let kept = |len: usize| ErrorText::new("e".repeat(len)).as_str().to_owned();
    assert_eq!(kept(limits::ERROR_BYTES), "e".repeat(limits::ERROR_BYTES));
    let cut = kept(limits::ERROR_BYTES + 1);
    assert!(
        cut.len() <= limits::ERROR_BYTES && cut.contains("[cut"),
        "{}",
        cut.len()
    );
}

#[test]
fn attempt_notes() {
    let mut entry = Entry::accepted(&copy());
    for number in 1..=u32::try_from(limits::ATTEMPT_NOTES).unwrap() + 1 {
        let first = entry.notes.first().map(|note| note.number);
        assert!(
            first.is_none_or(|first| first == 1),
            "none is dropped before there are too many"
        );
        entry.note(AttemptNote {
            number,
            started: now(),
            ended: now(),
            end: AttemptEnd::Failed,
            cause: None,
            error: None,
            worker: worker(),
            next: None,
        });
    }
    assert_eq!((entry.notes.len(), entry.notes[0].number), (limits::ATTEMPT_NOTES, 2));
}

#[test]
fn waiters() {
    let mailbox = |number: usize| Mailbox::from_bytes([u8::try_from(number).unwrap(); 16]);
    let mut entry = Entry::accepted(&copy());
    entry.waiters.clear();
    for number in 1..=limits::WAITERS {
        assert!(entry.listen(mailbox(number)));
        assert!(!entry.listen(mailbox(number)), "it is known");
    }
    assert_eq!((entry.waiters.len(), entry.waiters[0]), (limits::WAITERS, mailbox(1)));
    assert!(entry.listen(mailbox(limits::WAITERS + 1)));
    assert_eq!((entry.waiters.len(), entry.waiters[0]), (limits::WAITERS, mailbox(2)));
    entry.state = State::Dead;
    assert!(!entry.listen(mailbox(1)), "it would never be told");
}

#[test]
fn inline_values() {
    let inline = |len| {
        let (codec, bytes) = (Codec::Json, Bytes::from(vec![b'1'; len]));
        Payload { codec, bytes }.is_inline()
    };
    assert!(inline(limits::INLINE_BYTES));
    assert!(!inline(limits::INLINE_BYTES + 1));
}

#[test]
fn retries() {
    let failed = |attempts| {
        let mut copy = copy();
        copy.hop.attempts = attempts;
        let error = ErrorText::new("no");
        death(ended(Outcome::Failed { error, retry_in: None }, &copy, 0))
    };
    assert_eq!(failed(limits::RETRIES - 1), None);
    assert_eq!(failed(limits::RETRIES).as_deref(), Some("retries_exhausted"));
}

#[test]
fn crashes() {
    let crashed = |before| {
        let (cause, error) = (CrashCause::Memory, ErrorText::new("no"));
        death(ended(Outcome::Crashed { cause, error }, &copy(), before))
    };
    assert_eq!(crashed(limits::CRASHES - 2), None);
    assert_eq!(crashed(limits::CRASHES - 1).as_deref(), Some("crashed"));
}

#[test]
fn retention() {
    let mut entry = Entry::accepted(&copy());
    assert_eq!(entry.keep_until(), None);
    entry.ended = Some(now());
    for (state, keep) in [
        (State::Succeeded, limits::KEEP_SUCCEEDED),
        (State::Dead, limits::KEEP_OTHERS),
        (State::Cancelled, limits::KEEP_OTHERS),
        (State::Expired, limits::KEEP_OTHERS),
    ] {
        entry.state = state;
        assert_eq!(entry.keep_until(), Some(now().plus(keep)));
    }
}

#[test]
fn parking() {
    let parked = |times, since: Duration| {
        let mut copy = copy();
        copy.hop.parked = Some(Parked { since: now(), times });
        let now = now().plus(since);
        match park(Entry::accepted(&copy), &copy, "it is not known", now).0 {
            Meeting::Parked(until) => Ok(until.since(now)),
            other => Err(other),
        }
    };
    assert_eq!(parked(0, Duration::ZERO), Ok(limits::PARK_FIRST));
    assert_eq!(parked(1, Duration::ZERO), Ok(limits::PARK_FIRST * 2));
    assert_eq!(parked(4, Duration::ZERO), Ok(limits::PARK_LONGEST));
    assert_eq!(parked(u32::MAX >> 1, Duration::ZERO), Ok(limits::PARK_LONGEST));
    let before = limits::PARK_TOTAL.saturating_sub(Duration::from_micros(1));
    assert_eq!(parked(9, before), Ok(limits::PARK_LONGEST));
    assert_eq!(parked(9, limits::PARK_TOTAL), Err(Meeting::Die("parked_too_long")));
}

#[test]
fn busy_and_deadlines() {
    let copy = copy();
    let meets = |entry, hard_limit, after: Duration, token| {
        let worker = WorkerId::from_bytes([u8::try_from(token).unwrap(); 16]);
        let with = Situation {
            owner_alive: true,
            hard_limit,
            ..Situation::new(worker, token, now().plus(after))
        };
        meet(entry, &copy, &with)
    };
    for (hard, deadline) in [
        (None, limits::DEADLINE_OPEN),
        (Some(SECOND), SECOND + limits::DEADLINE_GRACE),
    ] {
        let (_, running) = meets(None, hard, Duration::ZERO, 1);
        let before = deadline.saturating_sub(Duration::from_micros(1));
        let (busy, _) = meets(running.clone(), hard, before, 2);
        assert_eq!(busy, Meeting::Busy(now().plus(before + limits::LEASE + SECOND)));
        assert!(matches!(meets(running, hard, deadline, 2).0, Meeting::Run { .. }));
    }
}

#[test]
fn suspects() {
    let guilty = limits::SUSPECT_AFTER + limits::SUSPECT_DEATHS;
    assert_eq!(suspicion(limits::SUSPECT_AFTER - 1), Suspicion::None);
    assert_eq!(suspicion(limits::SUSPECT_AFTER), Suspicion::Suspect);
    assert_eq!(suspicion(guilty - 1), Suspicion::Suspect);
    assert_eq!(suspicion(guilty), Suspicion::Guilty);
}

#[test]
fn splitting() {
    let bytes = parcel(&header(), vec![job(&core(0), &vec![]), job(&core(1), &vec![])]);
    let parcel = Parcel::decode(&bytes.into()).unwrap().parcel.unwrap();
    assert_eq!(parcel.jobs()[1].id(), id(1));
    assert!(!must_split(&parcel, limits::SPLIT_AFTER - 1));
    assert!(must_split(&parcel, limits::SPLIT_AFTER));
}
