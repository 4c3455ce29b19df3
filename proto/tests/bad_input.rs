//! Bytes that nobody should send: each is a typed error or a bad job, never a panic.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;
#[path = "../../fuzz/replay.rs"]
#[allow(dead_code)]
mod replay;

use bytes::Bytes;
use common::{Fields, V, common as shared, core, header, job, parcel, with, without};
use millhand_proto::wire::BadJob;
use millhand_proto::{Parcel, Record, WireError, limits};
use proptest::prelude::*;

fn open(bytes: Vec<u8>) -> Result<millhand_proto::Opened, WireError> {
    Parcel::decode(&Bytes::from(bytes))
}

/// What is wrong with the only job of a parcel.
fn bad(core: &Fields, hop: &Fields) -> BadJob {
    let mut opened = open(parcel(&header(), vec![job(core, hop)])).unwrap();
    assert_eq!(opened.parcel, None);
    assert_eq!(opened.bad.len(), 1);
    opened.bad.remove(0)
}

/// What is wrong with the only job below these common values.
fn bad_common(common: Fields) -> WireError {
    let header = vec![("v", V::U(1)), ("c", V::Map(common))];
    let mut opened = open(parcel(&header, vec![job(&core(0), &vec![])])).unwrap();
    assert_eq!(opened.parcel, None);
    opened.bad.remove(0).error
}

fn is_field(error: &WireError, name: &str) -> bool {
    matches!(error, WireError::Field { field, .. } if field == name)
}

#[test]
fn empty_short_and_trailing() {
    assert_eq!(open(vec![]), Err(WireError::Short));
    let good = parcel(&header(), vec![job(&core(0), &vec![])]);
    assert!(open(good.clone()).unwrap().bad.is_empty());
    for end in 0..good.len() {
        assert_eq!(open(good[..end].to_vec()), Err(WireError::Short), "cut at {end}");
    }
    for more in [&b"\0"[..], b"\n", &good] {
        assert_eq!(open([&good, more].concat()), Err(WireError::Trailing(more.len())));
    }
    // Inside a job too: after the hop, or no hop at all.
    let mut inner = V::Map(core(0)).bytes();
    let opened = open(parcel(&header(), vec![V::Bin(inner.clone())])).unwrap();
    assert_eq!(
        (opened.bad[0].error.clone(), opened.bad[0].id),
        (WireError::Short, Some(common::id(0)))
    );
    inner.extend([0x80, 0xc0]);
    let opened = open(parcel(&header(), vec![V::Bin(inner)])).unwrap();
    assert_eq!(opened.bad[0].error, WireError::Trailing(1));
}

#[test]
fn each_field_missing() {
    for key in ["i", "t", "a"] {
        let found = bad(&without(&core(0), key), &vec![]);
        assert_eq!(found.error, WireError::Missing(key));
    }
    assert_eq!(bad_common(without(&shared(), "q")), WireError::Missing("q"));
    assert_eq!(bad_common(without(&shared(), "ea")), WireError::Missing("ea"));
    let one = || vec![job(&core(0), &vec![])];
    assert_eq!(
        open(parcel(&without(&header(), "v"), one())),
        Err(WireError::Missing("v"))
    );
    assert_eq!(open(parcel(&vec![], one())), Err(WireError::Missing("v")));
    // A class that is not said is the normal one; all values may stand in the job itself.
    let whole = [core(0), without(&shared(), "p")].concat();
    let opened = open(parcel(&without(&header(), "c"), vec![job(&whole, &vec![])])).unwrap();
    assert_eq!(opened.parcel.unwrap().class(), millhand_proto::Class::Normal);
}

#[test]
fn wrong_types_everywhere() {
    let wrong = || {
        [
            V::Nil,
            V::Bool(true),
            V::U(u64::MAX),
            V::I(-1),
            V::F(f64::NAN),
            V::F(f64::INFINITY),
            V::S("x"),
            V::Bin(vec![1; 3]),
        ]
        .into_iter()
        .chain([
            V::Arr(vec![V::Nil]),
            V::Map(vec![("k", V::Nil)]),
            V::Raw(vec![0xa2, 0xff, 0xfe]),
        ])
        .chain([V::Raw(vec![0xd4, 1, 2]), V::Raw(vec![0xd6, 0xff, 0, 0, 0, 0])])
    };
    let in_core = [
        "i", "t", "a", "ct", "tv", "q", "p", "ea", "nb", "xp", "to", "rp", "tg", "pa", "ro", "by", "mb",
    ];
    let in_hop = ["h", "n", "ab", "du", "de", "pk", "bz", "fe", "ev"];
    // Those of the values above that are right for a key.
    let right = |key: &str, value: &V| {
        matches!(
            (key, value),
            ("t" | "q" | "by" | "fe", V::S(_)) | ("a", V::Bin(_)) | ("to" | "rp", V::Map(_) | V::Nil | V::Arr(_))
        )
    };
    let mut seen = 0;
    for value in wrong() {
        for key in in_core.into_iter().filter(|key| !right(key, &value)) {
            let found = bad(&with(&core(0), key, value.clone()), &vec![]);
            assert!(is_field(&found.error, key), "{key}: {value:?}: {:?}", found.error);
            assert_eq!(found.id.is_some(), key != "i", "the id is read all the same: {key}");
            seen += 1;
        }
        for key in in_hop.into_iter().filter(|key| !right(key, &value)) {
            let found = bad(&core(0), &vec![(key, value.clone())]);
            assert!(is_field(&found.error, key), "{key}: {value:?}: {:?}", found.error);
            seen += 1;
        }
        for key in ["v", "c"] {
            let bytes = parcel(&with(&header(), key, value.clone()), vec![job(&core(0), &vec![])]);
            assert!(
                open(bytes).map_or(true, |o| o.parcel.is_none() || matches!(value, V::Map(_))),
                "{key}: {value:?}"
            );
        }
        let mut whole = V::Arr(vec![V::Map(header()), value.clone()]).bytes();
        assert!(open(whole).map_or(true, |o| o.parcel.is_none()), "jobs: {value:?}");
        whole = V::Arr(vec![value.clone(), V::Arr(vec![job(&core(0), &vec![])])]).bytes();
        assert!(open(whole).is_err(), "header: {value:?}");
        assert!(open(value.bytes()).is_err(), "all: {value:?}");
    }
    assert!(seen > 200);
}

#[test]
fn names_and_ids() {
    let long: &'static str = Box::leak("a".repeat(65).into_boxed_str());
    for name in [
        "",
        "Resize",
        "a b",
        "a\n",
        "a\0b",
        "\u{feff}a",
        "../a",
        "-a",
        "re\u{200d}size",
        "\u{202e}a",
        "a*",
        long,
    ] {
        assert!(
            matches!(bad(&with(&core(0), "t", V::S(name)), &vec![]).error, WireError::Name(_)),
            "{name:?}"
        );
        assert!(
            matches!(bad(&with(&core(0), "q", V::S(name)), &vec![]).error, WireError::Name(_)),
            "{name:?}"
        );
    }
    assert!(
        matches!(
            bad(&with(&core(0), "q", V::S("a.b")), &vec![]).error,
            WireError::Name(_)
        ),
        "dots only in tasks"
    );
    for len in [0, 15, 17, 10_000] {
        assert!(is_field(
            &bad(&with(&core(0), "i", V::Bin(vec![7; len])), &vec![]).error,
            "i"
        ));
    }
}

#[test]
fn times_in_another_unit() {
    let micros = common::EA;
    for time in [
        0,
        micros / 1000,
        micros / 1_000_000,
        micros * 1000,
        u64::MAX,
        253_402_300_800_000_000,
    ] {
        for key in ["nb", "xp", "ea"] {
            assert!(
                is_field(&bad(&with(&core(0), key, V::U(time)), &vec![]).error, key),
                "{key} {time}"
            );
        }
        assert!(is_field(&bad_common(with(&shared(), "ea", V::U(time))), "ea"));
        assert!(is_field(&bad(&core(0), &vec![("du", V::U(time))]).error, "du"));
        assert!(is_field(
            &bad(&core(0), &vec![("pk", V::Arr(vec![V::U(time), V::U(1)]))]).error,
            "pk"
        ));
    }
}

#[test]
fn classes_tags_and_counts() {
    for class in [3, 255, 256, u64::MAX] {
        assert!(is_field(&bad_common(with(&shared(), "p", V::U(class))), "p"));
    }
    let tags = |n: usize| V::Arr(vec![V::S("x"); n]);
    assert!(is_field(&bad(&with(&core(0), "tg", tags(9)), &vec![]).error, "tg"));
    let long: &'static str = Box::leak("a".repeat(65).into_boxed_str());
    assert!(is_field(
        &bad(&with(&core(0), "tg", V::Arr(vec![V::S(long)])), &vec![]).error,
        "tg"
    ));
    assert!(is_field(&bad(&core(0), &vec![("h", V::U(1 << 32))]).error, "h"));
    // A codec that is not known is no bad job: its worker parks it.
    let opened = open(parcel(&header(), vec![job(&with(&core(0), "ct", V::U(9)), &vec![])])).unwrap();
    assert_eq!(opened.parcel.unwrap().jobs()[0].args(), None);
}

#[test]
fn huge_lengths_are_not_believed() {
    for bomb in [
        vec![0xc6, 0xff, 0xff, 0xff, 0xff],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xc9, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        assert_eq!(open(bomb.clone()), Err(WireError::Short));
        let whole = V::Arr(vec![V::Map(header()), V::Raw(bomb.clone())]).bytes();
        assert_eq!(open(whole), Err(WireError::Short));
        // A bad inner length spoils its own job alone.
        let jobs = vec![job(&with(&core(0), "a", V::Raw(bomb)), &vec![]), job(&core(1), &vec![])];
        let opened = open(parcel(&header(), jobs)).unwrap();
        assert_eq!(opened.parcel.unwrap().jobs().len(), 1);
        assert_eq!(opened.bad[0].error, WireError::Short);
    }
    let long = vec![0xc0; limits::MESSAGE_BYTES + 1];
    assert_eq!(open(long), Err(WireError::TooLong(limits::MESSAGE_BYTES + 1)));
}

#[test]
fn much_of_anything_costs_no_more_than_its_bytes() {
    const MANY: u32 = 200_000;
    let nil = || V::Nil;
    let map = |first: &Fields, prefix: char, count: u32| {
        let mut bytes = vec![0xdf];
        bytes.extend((u32::try_from(first.len()).unwrap() + count).to_be_bytes());
        for (key, value) in first {
            bytes.extend(V::S(key).bytes());
            bytes.extend(value.bytes());
        }
        for n in 0..count {
            bytes.extend(V::S(Box::leak(format!("{prefix}{n}").into_boxed_str())).bytes());
            bytes.extend(nil().bytes());
        }
        V::Raw(bytes)
    };
    let jobs = |n: u16| (0..n).map(|i| job(&core(i), &vec![])).collect::<Vec<_>>();
    let behind = |header: V, jobs: Vec<V>| V::Arr(vec![header, V::Arr(jobs)]).bytes();
    let common_of = |common: V| V::Map(vec![("v", V::U(1)), ("c", common)]);
    let pair = |core: V, hop: V| V::Bin([core.bytes(), hop.bytes()].concat());
    let long: &'static str = Box::leak("k".repeat(1 << 20).into_boxed_str());
    let wrong = vec![("ea", nil()), (long, nil()), (long, nil())];
    let tags = V::Arr(vec![V::S(""); MANY as usize]);
    let args = V::Bin(V::Arr(vec![nil(); 1 << 20]).bytes());
    let header = || V::Map(header());
    let empty = || V::Map(vec![]);
    for (name, bytes) in [
        (
            "keys of a header",
            behind(map(&common::header(), 'a', MANY), jobs(1024)),
        ),
        (
            "such as must be understood",
            behind(map(&common::header(), 'A', MANY), jobs(1024)),
        ),
        ("common keys", behind(common_of(map(&shared(), 'a', MANY)), jobs(1024))),
        (
            "common keys that must be understood",
            behind(common_of(map(&shared(), 'A', MANY)), jobs(1024)),
        ),
        (
            "a long key that is wrong for each job",
            behind(common_of(V::Map(wrong)), jobs(1024)),
        ),
        (
            "keys of a core",
            behind(header(), vec![pair(map(&core(0), 'a', MANY), empty())]),
        ),
        (
            "such as must be understood",
            behind(header(), vec![pair(map(&core(0), 'A', MANY), empty())]),
        ),
        (
            "keys of a hop",
            behind(header(), vec![pair(V::Map(core(0)), map(&vec![], 'a', MANY))]),
        ),
        (
            "such as must be understood",
            behind(header(), vec![pair(V::Map(core(0)), map(&vec![], 'A', MANY))]),
        ),
        (
            "tags",
            behind(header(), vec![job(&with(&core(0), "tg", tags), &vec![])]),
        ),
        (
            "arguments",
            behind(header(), vec![job(&with(&core(0), "a", args), &vec![])]),
        ),
        ("a million jobs", behind(header(), vec![V::Bin(vec![]); 1 << 20])),
        ("short jobs", behind(header(), jobs(1024))),
    ] {
        // A job that was read takes so many bytes, however short it is on the wire.
        let read = |data: &[u8]| drop(Parcel::decode(&Bytes::copy_from_slice(data)));
        replay::bounded(name, &bytes, 1024 * 1024, read);
    }
}

#[test]
fn keys_that_stand_twice_or_are_no_text() {
    let twice = |key| [core(0), core(0).into_iter().filter(|(k, _)| *k == key).collect()].concat();
    for key in ["i", "t", "a"] {
        assert_eq!(bad(&twice(key), &vec![]).error, WireError::Twice(key.into()));
    }
    assert_eq!(
        bad(&core(0), &vec![("h", V::U(1)), ("h", V::U(2))]).error,
        WireError::Twice("h".into())
    );
    assert_eq!(
        bad(&core(0), &vec![("zz", V::U(1)), ("zz", V::U(2))]).error,
        WireError::Twice("zz".into())
    );
    assert_eq!(bad_common([shared(), shared()].concat()), WireError::Twice("q".into()));
    // Among many keys, too, the first that stands twice is found, after what stands before it was read.
    let many: Fields = (0..100)
        .map(|n| (&*Box::leak(format!("z{n}").into_boxed_str()), V::U(n)))
        .collect();
    // These two have one hash.
    let many = [many, vec![("costarring", V::Nil), ("liquid", V::Nil)]].concat();
    let two = vec![("z70", V::Nil), ("more", V::Nil), ("z3", V::Nil)];
    let found = bad(&[core(0), many.clone(), two].concat(), &vec![]);
    assert_eq!(
        (found.error, found.id),
        (WireError::Twice("z70".into()), Some(common::id(0)))
    );
    assert!(
        open(parcel(&header(), vec![job(&[core(0), many].concat(), &vec![])]))
            .unwrap()
            .bad
            .is_empty()
    );
    let number_key = [V::Map(core(0)).bytes(), vec![0x81, 0x01, 0x01]].concat();
    let opened = open(parcel(&header(), vec![V::Bin(number_key)])).unwrap();
    assert!(is_field(&opened.bad[0].error, ""));
}

#[test]
fn depth() {
    let nested = |levels: usize| V::Raw([vec![0x91; levels], vec![0xc0]].concat());
    // The job is a `bin`, so it is measured by itself: its map is the first level.
    let fits = with(&core(0), "zz", nested(limits::DEPTH - 1));
    assert!(
        open(parcel(&header(), vec![job(&fits, &vec![])]))
            .unwrap()
            .bad
            .is_empty()
    );
    assert_eq!(
        bad(&with(&core(0), "zz", nested(limits::DEPTH)), &vec![]).error,
        WireError::TooDeep
    );
    assert_eq!(open(vec![0x91; 2048]), Err(WireError::TooDeep));
    assert_eq!(
        open(V::Arr(vec![nested(limits::DEPTH), V::Arr(vec![])]).bytes()),
        Err(WireError::TooDeep)
    );
}

#[test]
fn how_many_jobs() {
    let jobs = |n: u16| (0..n).map(|i| job(&core(i % 1024), &vec![])).collect::<Vec<_>>();
    assert_eq!(
        open(parcel(&header(), jobs(1024)))
            .unwrap()
            .parcel
            .unwrap()
            .jobs()
            .len(),
        1024
    );
    assert!(matches!(
        open(parcel(&header(), jobs(1025))),
        Err(WireError::Field { .. })
    ));
    assert!(matches!(open(parcel(&header(), vec![])), Err(WireError::Field { .. })));
}

#[test]
fn newer_versions() {
    for version in [2, 255, u64::MAX] {
        let bytes = parcel(&with(&header(), "v", V::U(version)), vec![job(&core(0), &vec![])]);
        assert_eq!(open(bytes), Err(WireError::Newer(version)));
    }
    let record = V::Map(vec![
        ("v", V::U(2)),
        ("q", V::S("default")),
        ("p", V::U(1)),
        ("e", V::Arr(vec![])),
    ])
    .bytes();
    let said = Record::decode(&record).unwrap_err().to_string();
    assert!(said.contains("version 2 is newer"), "{said}");
}

#[test]
fn jobs_that_do_not_belong_together() {
    let other = with(&core(1), "i", V::Bin(vec![9; 16]));
    let queue = with(&core(2), "q", V::S("other"));
    let jobs = vec![
        job(&core(0), &vec![]),
        job(&other, &vec![]),
        job(&queue, &vec![]),
        job(&core(3), &vec![("h", V::U(1))]),
    ];
    let opened = open(parcel(&header(), jobs)).unwrap();
    assert_eq!(opened.parcel.unwrap().jobs().len(), 1);
    assert!(
        opened
            .bad
            .iter()
            .all(|b| matches!(b.error, WireError::Mixed(_)) && b.id.is_some())
    );
    assert_eq!(opened.bad.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..1024)) {
        let _ = open(bytes.clone());
        let _ = Record::decode(&bytes);
        let _ = open(parcel(&header(), vec![V::Bin(bytes.clone())]));
        let mut behind = vec![0x92];
        behind.extend(V::Map(header()).bytes());
        behind.extend(&bytes);
        let _ = open(behind);
    }

    #[test]
    fn what_opens_is_written_and_opens_again(
        at in any::<proptest::sample::Index>(), byte in any::<u8>(), more in any::<proptest::sample::Index>(), other in any::<u8>(),
    ) {
        let mut bytes = parcel(&header(), vec![job(&core(0), &vec![("n", V::U(3))]), job(&core(1), &vec![])]);
        let (at, more) = (at.index(bytes.len()), more.index(bytes.len()));
        bytes[at] = byte;
        bytes[more] = other;
        if let Ok(Some(parcel)) = open(bytes).map(|o| o.parcel) {
            let again = open(parcel.encode()).unwrap();
            prop_assert_eq!(again.bad, vec![]);
            prop_assert_eq!(again.parcel, Some(parcel));
        }
    }
}
