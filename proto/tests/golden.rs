//! Golden files of the wire and of records: they catch accidents.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{V, job, parcel, with};
use millhand_proto::record::ParkNote;
use millhand_proto::{
    AttemptEnd, AttemptNote, Class, Codec, Core, Entry, ErrorText, JobCopy, JobId, Leaving, Mailbox, Parcel, Parked,
    Payload, QueueName, Receipt, Record, RetryWish, State, Successor, TaskName, TimeLimits, Timestamp,
};

const SECOND: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(common::EA).unwrap() + seconds * SECOND)
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    let line = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(32).map(|part| line(part) + "\n").collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0, "an odd number of hex digits");
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// The bytes in the golden file `name`, which must be `bytes`.
fn golden(name: &str, bytes: &[u8]) -> Bytes {
    let path = path(name);
    if std::env::var_os("MILLHAND_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, to_hex(bytes)).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        to_hex(bytes),
        file,
        "the bytes of `{name}` are no longer those in proto/tests/golden/{name}.hex. If that is meant, \
         and the format is not frozen yet, run the tests once with MILLHAND_BLESS=1 to write the file again"
    );
    from_hex(&file).into()
}

fn core(index: u16) -> Core {
    Core {
        id: common::id(index),
        task: TaskName::new("resize").unwrap(),
        args: Bytes::from_static(b"\x82\xa1w\x64\xa1h\x32"),
        codec: 0,
        task_version: 0,
        queue: QueueName::default(),
        class: Class::Normal,
        enqueued_at: at(0),
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
    }
}

fn minimal() -> Parcel {
    Parcel::pack(vec![core(0)]).unwrap()
}

fn check_parcel(name: &str, parcel: &Parcel) {
    let bytes = golden(name, &parcel.encode());
    let opened = Parcel::decode(&bytes).unwrap();
    assert_eq!(opened.bad, []);
    assert_eq!(opened.parcel.as_ref(), Some(parcel), "{name} decodes to the value");
}

#[test]
fn a_minimal_parcel() {
    check_parcel("minimal", &minimal());
    // Written by hand, as another language would, it is the same.
    let hand_made = parcel(&common::header(), vec![job(&common::core(0), &vec![])]);
    assert_eq!(to_hex(&hand_made), to_hex(&minimal().encode()));
}

#[test]
fn a_parcel_of_three_jobs_with_everything() {
    let rich = |index| Core {
        codec: u8::from(index == 1),
        args: if index == 1 {
            Bytes::from_static(br#"{"w": 100, "h": 50}"#)
        } else {
            core(0).args
        },
        task: TaskName::new("img.resize").unwrap(),
        task_version: 3,
        queue: QueueName::new("images").unwrap(),
        class: Class::High,
        not_before: Some(at(60)),
        expires: Some(at(86_400)),
        limits: TimeLimits {
            soft_ms: Some(20_000),
            hard_ms: Some(30_000),
        },
        retry: RetryWish {
            retries: Some(3),
            base_ms: Some(1_000),
            longest_ms: Some(60_000),
        },
        tags: vec!["blue".into(), "größe".into()],
        parent: Some(JobId::given("parent")),
        root: Some(JobId::given("root")),
        producer: Some("shop-1".into()),
        mailbox: Some(Mailbox::from_bytes([0x11; 16])),
        ..core(index)
    };
    let parcel = Parcel::pack(vec![rich(0), rich(1), rich(1023)]).unwrap();
    let mut jobs = parcel.into_jobs();
    let hop = &mut jobs[0].hop;
    (hop.parked, hop.due) = (
        Some(Parked {
            since: at(61),
            times: 4,
        }),
        Some(at(101)),
    );
    let hop = &mut jobs[1].hop;
    (hop.deaths, hop.busy, hop.due, hop.expected_version) = (2, 1, Some(at(90)), Some([7; 8]));
    let hop = &mut jobs[2].hop;
    (hop.attempts, hop.attempts_before, hop.first_error) = (2, 1, Some("no space left".into()));
    check_parcel("three", &Parcel::several(jobs).unwrap());
}

#[test]
fn a_retry() {
    let first = minimal().into_jobs().remove(0);
    let next = Successor {
        why: Leaving::Retry,
        due: at(12),
    }
    .copy(&first, Some("timeout"));
    assert_eq!((next.hop.hand, next.hop.attempts), (1, 1));
    check_parcel("retry", &Parcel::of(next));
}

#[test]
fn what_is_not_known_travels_on_unchanged() {
    let header = vec![
        ("v", V::U(1)),
        ("c", V::Map(with(&common::common(), "tp", V::Bin(vec![1; 4])))),
        ("zz", V::Arr(vec![V::Nil, V::F(0.5)])),
    ];
    let mut core = common::core(0);
    core.insert(1, ("newer", V::Map(vec![("k", V::Bool(true))])));
    core.push(("Must", V::I(-5)));
    core.push(("wf", V::S("reserved")));
    let hop = vec![
        ("h", V::U(2)),
        ("n", V::U(2)),
        ("later", V::S("x")),
        ("Hop", V::Arr(vec![])),
    ];
    let bytes = golden("unknown", &parcel(&header, vec![job(&core, &hop)]));
    let opened = Parcel::decode(&bytes).unwrap();
    assert_eq!(opened.bad, []);
    let parcel = opened.parcel.unwrap();
    let copy = &parcel.jobs()[0];
    assert_eq!(copy.not_understood().collect::<Vec<_>>(), ["Must", "Hop"]);
    assert_eq!((copy.hop.hand, copy.hop.attempts), (2, 2));
    assert_eq!(to_hex(&parcel.encode()), to_hex(&bytes), "it goes on byte for byte");
    // And through the next hop too.
    let next = Successor {
        why: Leaving::Retry,
        due: at(1),
    }
    .copy(copy, None);
    let again = Parcel::decode(&Parcel::of(next).encode().into())
        .unwrap()
        .parcel
        .unwrap();
    assert_eq!(again.jobs()[0].not_understood().collect::<Vec<_>>(), ["Must", "Hop"]);
    assert!(again.encode().windows(5).any(|w| w == b"newer") && again.encode().windows(5).any(|w| w == b"later"));
}

#[test]
fn the_own_value_wins_over_the_common_one() {
    let core = with(&with(&common::core(0), "q", V::S("other")), "p", V::U(2));
    let header = vec![
        ("v", V::U(1)),
        ("c", V::Map(with(&common::common(), "t", V::S("shared")))),
    ];
    let bytes = parcel(
        &header,
        vec![job(&core, &vec![]), job(&common::without(&core, "t"), &vec![])],
    );
    let opened = Parcel::decode(&bytes.into()).unwrap().parcel.unwrap();
    assert_eq!((opened.queue().as_str(), opened.class()), ("other", Class::High));
    let tasks: Vec<_> = opened.jobs().iter().map(|j| j.core.task.as_str()).collect();
    assert_eq!(tasks, ["resize", "shared"]);
}

#[test]
fn a_record_with_entries_in_several_states() {
    let copy = |index| {
        JobCopy::first(Core {
            mailbox: Some(Mailbox::from_bytes([0x11; 16])),
            ..core(index)
        })
    };
    let worker = Mailbox::from_bytes([0x22; 16]);
    let note = |number, end| AttemptNote {
        number,
        started: at(1),
        ended: at(2),
        end,
        cause: None,
        error: Some(ErrorText::new("no space left")),
        worker,
        next: Some(at(9)),
    };
    let mut record = Record::new(QueueName::default(), Class::Normal);
    record.put(Entry::accepted(&copy(0)));
    let mut running = Entry::accepted(&copy(1));
    running.state = State::Running;
    (running.claims, running.token, running.owner, running.deadline) = (2, u64::MAX, Some(worker), Some(at(90)));
    (running.started, running.deaths, running.detached, running.cancel_asked) = (Some(at(1)), 1, true, Some(at(3)));
    record.put(running);
    let mut retrying = Entry::accepted(&copy(2));
    retrying.state = State::Retrying;
    retrying.attempts = 1;
    retrying.crashes = 1;
    retrying.leaving = Some(Successor {
        why: Leaving::Retry,
        due: at(9),
    });
    retrying.note(note(1, AttemptEnd::Crashed));
    record.put(retrying);
    let mut moved = Entry::accepted(&copy(3));
    moved.moved = true;
    record.put(moved);
    let mut parked = Entry::accepted(&copy(4));
    parked.parked = Some(ParkNote {
        since: at(1),
        times: 2,
        why: "task resize is not known here".into(),
    });
    parked.tags = vec!["blue".into()];
    parked.conflicts = 1;
    record.put(parked);
    let mut done = Entry::accepted(&copy(5));
    (done.state, done.attempts, done.ended) = (State::Succeeded, 1, Some(at(4)));
    done.result = Some(Payload {
        codec: Codec::MessagePack,
        bytes: Bytes::from_static(&[0x2a]),
    });
    done.receipt = Some(Receipt {
        enqueue: 900,
        queue: 50,
        run: 1_200,
        cpu: Some(1_100),
        ..Receipt::default()
    });
    record.put(done);
    let mut dead = Entry::accepted(&copy(6));
    (dead.state, dead.hand, dead.ended) = (State::Dead, 4, Some(at(5)));
    dead.reason = Some("retries_exhausted".into());
    dead.note(note(4, AttemptEnd::Failed));
    record.put(dead);

    let bytes = golden("record", &record.encode().unwrap());
    assert_eq!(Record::decode(&bytes).unwrap(), record);
}

#[test]
fn the_document_shows_the_bytes_of_a_golden_file() {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/wire.md");
    let doc = std::fs::read_to_string(doc).unwrap();
    let lines = to_hex(&minimal().encode());
    let indented = |text: &str| text.split_whitespace().collect::<String>();
    assert!(
        indented(&doc).contains(&indented(&lines)),
        "docs/wire.md does not hold the bytes of minimal.hex:\n{lines}"
    );
    let keys = [
        "i", "t", "a", "ct", "z", "e", "sh", "tv", "q", "p", "ea", "nb", "xp", "to", "rp", "tn", "ck", "uk", "dp",
        "tg", "pa", "ro", "wf", "sc", "tp", "ts", "bl", "tr", "re", "by", "mb", "h", "n", "ab", "du", "de", "pk", "bz",
        "fe", "ev", "v", "c",
    ];
    for key in keys {
        assert!(
            doc.contains(&format!("| `{key}` |")),
            "docs/wire.md has no row for the key {key}"
        );
    }
}
