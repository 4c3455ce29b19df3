//! What only a file can do: be shared, be damaged, be somebody else's.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use millhand_broker::sqlite::Sqlite;
use millhand_broker::{Act, Acted, Backend, Error, Mail, Pushed, Subscription};
use millhand_proto::{Core, JobId, Mailbox, Parcel, Payload, QueueName, State, TaskName, Timestamp};
use rusqlite::Connection;

const SOON: Duration = Duration::from_secs(10);

fn core(n: u64) -> Core {
    // Spread, as random numbers are.
    let id = JobId::minted(Timestamp::MIN_WIRE, n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0);
    let task = TaskName::new("act").unwrap();
    Core {
        args: Payload::encode("args").unwrap().bytes,
        ..Core::new(id, task, QueueName::default(), Timestamp::MIN_WIRE)
    }
}

async fn push(backend: &dyn Backend, core: Core) {
    assert_eq!(
        backend.push(vec![Parcel::pack(vec![core]).unwrap()]).await,
        [Pushed::Accepted]
    );
}

fn refused(path: &Path) -> String {
    match Sqlite::open(path) {
        Err(error @ Error::Unusable { .. }) => error.to_string(),
        other => panic!("a refusal was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_parcel_are_set_aside_and_the_next_good_job_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    let raw = Connection::open(&path).unwrap();
    let insert = |queue: &str, body: &[u8]| {
        raw.execute(
            "INSERT INTO copies (key, queue, class, due, jobs, body) VALUES (0, ?, 1, 0, 1, ?)",
            rusqlite::params![queue, body],
        )
        .unwrap();
    };
    let long = Core {
        args: vec![0xc0; 5000].into(),
        ..core(1)
    };
    let good = Parcel::pack(vec![long]).unwrap().encode();
    let mut misspelt = good.clone();
    let at = misspelt.windows(3).position(|w| w == b"act").unwrap();
    misspelt[at] = b'A';
    for body in [
        &b""[..],
        b"garbage",
        &[0x91; 5001],
        &good[..good.len() - 1],
        &misspelt,
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
    ] {
        insert("default", body);
    }
    // A good parcel of another queue than its row says.
    raw.execute("UPDATE copies SET queue = 'default'", []).unwrap();
    let elsewhere = Parcel::pack(vec![Core {
        queue: QueueName::new("other").unwrap(),
        ..core(2)
    }])
    .unwrap()
    .encode();
    insert("default", &elsewhere);
    push(&*backend, core(3)).await;

    let worker = Mailbox::from_random([1; 16]);
    let subscription = Subscription {
        worker,
        queue: QueueName::default(),
        prefetch: 10,
    };
    let mut consumer = backend.consume(subscription).await.unwrap();
    let delivery = tokio::time::timeout(SOON, consumer.deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(delivery.parcel.jobs()[0].id(), core(3).id);

    // The good job did not wait for it.
    let aside = async {
        loop {
            let queues = backend.queues().await.unwrap();
            let default = queues.into_iter().find(|q| q.name == QueueName::default()).unwrap();
            if !default.unreadable.is_empty() {
                return default;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let default = tokio::time::timeout(SOON, aside).await.unwrap();
    assert_eq!((default.unreadable.len(), *consumer.unreadable.borrow()), (7, 7));
    assert_eq!(
        (default.queued, default.held),
        (0, 1),
        "nothing bad is left in the queue"
    );
    // Where the id could be read, the job is dead with its reason.
    for (n, why) in [(1, "task name"), (2, "queue other")] {
        let entry = backend.read(vec![core(n).id]).await.unwrap().remove(0).unwrap().entry;
        assert_eq!(entry.state, State::Dead);
        assert!(entry.reason.as_ref().unwrap().contains(why), "{:?}", entry.reason);
    }
    // What may hold a job is kept whole, and of the rest it is said how long it was.
    let mut kept = raw
        .prepare("SELECT length(body), reason FROM unreadable WHERE length(body) > 4000")
        .unwrap();
    let mut kept: Vec<(usize, String)> = kept
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    kept.sort();
    let [(4096, junk), (job, _), (parcel, _)] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert!(junk.ends_with("; the first 4096 of 5001 bytes are kept"), "{junk}");
    assert!(*job > 5000 && *parcel == good.len() - 1, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_file_and_wake_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    // Two handles see each other only through the file and the folder beside it.
    let (here, there) = (Sqlite::open(&path).unwrap(), Sqlite::open(&path).unwrap());
    let (me, other) = (Mailbox::from_random([1; 16]), Mailbox::from_random([2; 16]));
    let subscription = Subscription {
        worker: other,
        queue: QueueName::default(),
        prefetch: 1,
    };
    let mut consumer = there.consume(subscription).await.unwrap();
    let mut to_there = there.watch(other).await.unwrap();
    let mut to_here = here.watch(me).await.unwrap();

    push(
        &*here,
        Core {
            mailbox: Some(me),
            ..core(1)
        },
    )
    .await;
    let delivery = tokio::time::timeout(SOON, consumer.deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    let claim = millhand_broker::Claim {
        copy: delivery.parcel.jobs()[0].clone(),
        situation: millhand_proto::protocol::Situation::new(other, 1, Timestamp::default()),
    };
    let Some(millhand_proto::protocol::Meeting::Run { fence, .. }) = there.claim(vec![claim]).await.unwrap().pop()
    else {
        panic!("leave to run was expected")
    };
    assert_eq!(here.act(vec![Act::Cancel(core(1).id)]).await.unwrap(), [Acted::Asked]);
    assert_eq!(
        tokio::time::timeout(SOON, to_there.recv()).await.unwrap(),
        Some(Mail::Cancel(core(1).id))
    );
    let verdict = millhand_broker::Verdict::Cancel {
        fence,
        note: None,
        receipt: millhand_proto::Receipt::default(),
    };
    let settlement = millhand_broker::Settlement {
        delivery: delivery.id,
        copy: delivery.parcel.jobs()[0].clone(),
        verdict,
        log: None,
    };
    there.settle(vec![settlement]).await.unwrap();
    assert_eq!(
        tokio::time::timeout(SOON, to_here.recv()).await.unwrap(),
        Some(Mail::Ended(core(1).id))
    );
}

#[test]
fn a_file_that_is_not_ours_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    std::fs::write(
        &path,
        "no database at all, but long enough to be looked at as one ".repeat(20),
    )
    .unwrap();
    assert!(refused(&path).contains("not a SQLite database"));

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign)
        .unwrap()
        .execute("CREATE TABLE mine (x)", [])
        .unwrap();
    assert!(refused(&foreign).contains("another program"));

    let newer = dir.path().join("newer.db");
    drop(Sqlite::open(&newer).unwrap());
    Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(refused(&newer).contains("newer"));

    assert!(refused(&dir.path().join("no/such/folder/x.db")).contains("cannot be opened"));
    assert!(refused(dir.path()).contains("cannot be opened"));
}

#[tokio::test]
async fn a_file_of_an_earlier_version_gets_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    drop(Sqlite::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .execute_batch("DROP TABLE stats; ALTER TABLE workers DROP COLUMN tasks; PRAGMA user_version = 1;")
        .unwrap();
    let backend = Sqlite::open(&path).unwrap();
    let now = backend.now();
    assert!(backend.stats(now, now).await.unwrap().is_empty());
}

#[test]
fn eight_at_once_make_one_file() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.db");
        std::thread::scope(|scope| {
            let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| Sqlite::open(&path).map(drop))).collect();
            for open in opened {
                open.join().unwrap().unwrap();
            }
        });
    }
}

async fn consume(backend: &dyn Backend, worker: u8) -> millhand_broker::Consumer {
    let subscription = Subscription {
        worker: Mailbox::from_random([worker; 16]),
        queue: QueueName::default(),
        prefetch: 4,
    };
    backend.consume(subscription).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_leaves_takes_nothing_with_it() {
    for round in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let backend = Sqlite::open(dir.path().join("jobs.db")).unwrap();
        let consumer = consume(&*backend, 1).await;
        let (flow, mut deliveries) = (consumer.flow, consumer.deliveries);
        tokio::spawn(async move { while deliveries.recv().await.is_some() {} });
        // It is told to stop while a producer enqueues.
        for n in 0..1 + round % 8 {
            push(&*backend, core(n)).await;
        }
        drop(flow);
        backend.leave(Mailbox::from_random([1; 16])).await.unwrap();
        // Whatever its consumer still asked for stands before this in the queue of the writing thread.
        push(&*backend, core(100)).await;
        let pending = backend.pending(Vec::new()).await.unwrap();
        assert_eq!(pending.held, 0, "round {round}");
    }
}

#[tokio::test]
async fn parcels_of_an_owner_without_a_trace_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    push(&*backend, core(1)).await;
    // As in a backup that was taken while a worker held it.
    let raw = Connection::open(&path).unwrap();
    raw.execute("UPDATE copies SET owner = ?", [[9u8; 16]]).unwrap();
    drop(raw);
    let mut consumer = consume(&*backend, 1).await;
    let delivery = tokio::time::timeout(SOON, consumer.deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((delivery.parcel.jobs()[0].id(), delivery.redeliveries), (core(1).id, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_what_was_accepted_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Sqlite::open(dir.path().join("jobs.db")).unwrap();
    let parcels: Vec<Parcel> = (0..100).map(|n| Parcel::pack(vec![core(n)]).unwrap()).collect();
    let ids: Vec<JobId> = parcels.iter().map(|p| p.jobs()[0].id()).collect();
    backend.push(parcels).await;
    let others: Vec<_> = (0..2)
        .map(|_| {
            let (backend, ids) = (backend.clone(), ids.clone());
            tokio::spawn(async move { while backend.read(ids.clone()).await.is_ok() {} })
        })
        .collect();
    for n in 10_000..10_030 {
        push(&*backend, core(n)).await;
        let read = backend.read(vec![core(n).id]).await.unwrap();
        assert!(read[0].is_some(), "job {n} was accepted and is not known");
    }
    for other in others {
        other.abort();
    }
}

#[tokio::test]
async fn nothing_stays_of_a_mailbox_that_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    let files = || std::fs::read_dir(path.with_extension("db.workers")).map_or(0, Iterator::count);
    for n in 0..20 {
        drop(backend.watch(Mailbox::from_random([n; 16])).await.unwrap());
    }
    tokio::time::timeout(SOON, async {
        while files() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_process_has_locked_is_opened_and_its_lock_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    drop(Sqlite::open(&path).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let opened = tokio::task::spawn_blocking(move || Sqlite::open(&path));
    let backend = tokio::time::timeout(SOON, opened).await.unwrap().unwrap().unwrap();
    let pushed = tokio::spawn(async move { push(&*backend, core(1)).await });
    other.execute_batch("COMMIT").unwrap();
    tokio::time::timeout(SOON, pushed).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_that_is_closed_waits_for_no_lock_and_keeps_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    push(&*backend, core(1)).await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Under way, and nobody waits for what becomes of them.
    for n in 2..5 {
        let parcel = Parcel::pack(vec![core(n)]).unwrap();
        let pushed = tokio::time::timeout(Duration::from_millis(50), backend.push(vec![parcel])).await;
        assert!(pushed.is_err(), "{pushed:?}");
    }
    let closed = tokio::task::spawn_blocking(move || drop(backend));
    tokio::time::timeout(SOON, closed).await.expect("closed").unwrap();
    other.execute_batch("COMMIT").unwrap();
    let ids = (1..5).map(|n| core(n).id).collect();
    let known = Sqlite::open(&path).unwrap().read(ids).await.unwrap();
    let known: Vec<bool> = known.iter().map(Option::is_some).collect();
    assert_eq!(known, [true, false, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_of_a_back_end_is_done_before_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    // More than one transaction takes.
    let jobs = 2000;
    let ids: Vec<JobId> = (0..jobs).map(|n| core(n).id).collect();
    for n in 0..jobs {
        // Asked, and not waited for.
        let _ = backend.push(vec![Parcel::pack(vec![core(n)]).unwrap()]).now_or_never();
    }
    drop(backend);
    let known = Sqlite::open(&path).unwrap().read(ids).await.unwrap();
    assert_eq!(known.iter().flatten().count() as u64, jobs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_go_on_when_the_file_can_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let backend = Sqlite::open(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("ALTER TABLE copies RENAME TO away").unwrap();
    let subscription = Subscription {
        worker: Mailbox::from_random([1; 16]),
        queue: QueueName::default(),
        prefetch: 10,
    };
    let mut consumer = backend.consume(subscription).await.unwrap();
    // It looks at once, and cannot.
    let nothing = tokio::time::timeout(Duration::from_secs(1), consumer.deliveries.recv()).await;
    assert!(nothing.is_err(), "deliveries ended: {nothing:?}");
    let trouble = consumer.trouble.borrow().clone();
    assert!(
        trouble.as_ref().is_some_and(|why| why.contains("copies")),
        "{trouble:?}"
    );
    other.execute_batch("ALTER TABLE away RENAME TO copies").unwrap();
    push(&*backend, core(1)).await;
    let delivery = tokio::time::timeout(SOON, consumer.deliveries.recv()).await;
    assert_eq!(delivery.unwrap().unwrap().parcel.jobs()[0].id(), core(1).id);
    assert_eq!(*consumer.trouble.borrow(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_opened_by_a_link_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let [file, link] = ["jobs.db", "link.db"].map(|name| dir.path().join(name));
    let backend = Sqlite::open(&file).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    push(&*backend, core(1)).await;
    let mut holder = consume(&*Sqlite::open(&link).unwrap(), 1).await;
    tokio::time::timeout(SOON, holder.deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    // Who came by the other name finds that its holder lives.
    let mut other = consume(&*backend, 2).await;
    push(&*backend, core(2)).await;
    for _ in 0..2 {
        let delivery = tokio::time::timeout(Duration::from_secs(1), other.deliveries.recv()).await;
        let id = delivery.ok().flatten().map(|delivery| delivery.parcel.jobs()[0].id());
        assert_ne!(id, Some(core(1).id), "it is held");
    }
}
