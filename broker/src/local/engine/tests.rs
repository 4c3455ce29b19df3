//! Transactions on a database in memory.

use std::time::Duration;

use millhand_proto::protocol::Situation;
use millhand_proto::{Core, Receipt, TaskName};

use super::*;
use crate::backend::Act;
use crate::local::schema;

const DAY: Duration = Duration::from_secs(86_400);

fn copy(n: u64) -> JobCopy {
    let id = JobId::minted(Timestamp::MIN_WIRE, n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0);
    let task = TaskName::new("act").expect("a name");
    JobCopy::first(Core::new(id, task, QueueName::default(), Timestamp::MIN_WIRE))
}

/// Runs a job to its success or cancels it.
fn end(connection: &rusqlite::Connection, copy: &JobCopy, now: Timestamp, cancelled: bool) {
    let mut engine = Engine::new(connection, now);
    if cancelled {
        engine.publish(copy.clone()).expect("published");
        engine.act(&Act::Cancel(copy.id())).expect("cancelled");
    } else {
        let claim = Claim {
            copy: copy.clone(),
            situation: Situation::new(Mailbox::from_random([1; 16]), 1, now),
        };
        let Meeting::Run { fence, .. } = engine.claim(&claim, &|_| false).expect("claimed") else {
            panic!("leave to run was expected")
        };
        let verdict = Verdict::Succeed {
            fence,
            result: Payload::encode("done").expect("text"),
            receipt: Receipt::default(),
            children: Vec::new(),
        };
        engine
            .settle(copy, &verdict, Some(&AttemptLog::default().encode().into()))
            .expect("settled");
    }
    engine.finish().expect("written");
}

#[test]
fn the_newest_unreadable_parcels_are_kept() {
    let connection = schema::in_memory().expect("a database");
    let aside = || {
        let mut engine = Engine::new(&connection, Timestamp::MIN_WIRE);
        engine.set_aside("q", None, "no parcel", b"?").expect("set aside");
    };
    let rows = || {
        let rows = connection.query_row("SELECT min(seq), max(seq) FROM unreadable", [], |row| {
            Ok((row.get::<_, usize>(0)?, row.get::<_, usize>(1)?))
        });
        rows.expect("a read")
    };
    aside();
    aside();
    // As many as fit but for one have come between.
    let newest = connection.execute("UPDATE unreadable SET seq = ? WHERE seq = 2", [limits::UNREADABLE - 1]);
    newest.expect("moved");
    aside();
    assert_eq!(rows(), (1, limits::UNREADABLE));
    aside();
    assert_eq!(rows(), (limits::UNREADABLE - 1, limits::UNREADABLE + 1));
}

#[test]
fn a_list_says_when_it_has_not_looked_at_everything() {
    let connection = schema::in_memory().expect("a database");
    let rows = |from: usize, to: usize| {
        let sql = "INSERT INTO ended (id, at, state, task, queue)
             WITH RECURSIVE n(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
             SELECT zeroblob(16), n, 'succeeded', 'act', 'q' FROM n";
        let count = connection.execute(sql, [from, to]).expect("written");
        assert_eq!(count, to + 1 - from);
    };
    let looked = || {
        let filter = JobFilter {
            states: vec![State::Dead, State::Cancelled],
            ..JobFilter::default()
        };
        let page = Engine::new(&connection, Timestamp::MIN_WIRE)
            .list(&filter)
            .expect("a list");
        (page.looked_at, page.complete)
    };
    rows(1, limits::LIST_SCAN - 1);
    assert_eq!(looked(), (limits::LIST_SCAN - 1, true));
    rows(limits::LIST_SCAN, limits::LIST_SCAN);
    assert_eq!(looked(), (limits::LIST_SCAN, false), "there may be more");
    rows(limits::LIST_SCAN + 1, limits::LIST_SCAN + 1);
    assert_eq!(looked(), (limits::LIST_SCAN, false));
}

#[test]
fn what_is_old_is_forgotten_unless_a_copy_may_still_come() {
    let connection = schema::in_memory().expect("a database");
    let start = Timestamp::MIN_WIRE;
    // What is kept longer lies before what is not.
    for n in 0..10 {
        end(&connection, &copy(n), start, true);
    }
    let (done, copied) = (copy(100), copy(101));
    end(&connection, &done, start, false);
    end(&connection, &copied, start, false);
    let mut engine = Engine::new(&connection, start);
    engine.publish(copied.clone()).expect("published");
    engine.finish().expect("written");

    let known = |after: Duration| {
        let mut engine = Engine::new(&connection, start.plus(after));
        engine.sweep(4).expect("swept");
        engine.finish().expect("written");
        let engine = Engine::new(&connection, start.plus(after));
        [copy(0).id(), done.id(), copied.id()].map(|id| {
            let view = engine.view(id).expect("a read");
            view.map(|v| v.entry.state)
        })
    };
    let (cancelled, succeeded) = (Some(State::Cancelled), Some(State::Succeeded));
    assert_eq!(known(DAY / 2), [cancelled, succeeded, succeeded]);
    let logs = || {
        let engine = Engine::new(&connection, start);
        [done.id(), copied.id()].map(|id| engine.log(id).expect("a read").is_some())
    };
    assert_eq!(logs(), [true, true]);
    assert_eq!(known(DAY * 2), [cancelled, None, succeeded]);
    assert_eq!(logs(), [false, true]);
    assert_eq!(known(DAY * 8), [None, None, succeeded]);
}
