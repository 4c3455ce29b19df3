//! Workers and data of different versions on one back end: what an earlier version wrote is read, what
//! a later one wrote costs no job. The conformance suite has what parcels carry along.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use millhand_broker::memory::Memory;
use millhand_broker::sqlite::Sqlite;
use millhand_broker::{
    Act, Acted, Backend, BackendUrl, Claim, Consumer, Delivery, Settled, Settlement, Subscription, Verdict, open,
};
use millhand_proto::protocol::{Meeting, Situation};
use millhand_proto::{
    Class, Core, Entry, Fence, JobCopy, JobId, Leaving, Mailbox, Parcel, Payload, QueueName, Receipt, Record,
    RecordKey, State, Successor, TaskName, Timestamp,
};
use millhand_servers::{Redis, shared};

const SOON: Duration = Duration::from_secs(20);

/// A file of `proto/tests/golden`: frozen bytes of the first version.
fn golden(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../proto/tests/golden/{name}.hex"));
    let text: String = std::fs::read_to_string(path).unwrap().split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn parcel(name: &str) -> Parcel {
    let opened = Parcel::decode(&golden(name)).unwrap();
    assert_eq!(opened.bad, []);
    opened.parcel.unwrap()
}

/// A back end, and the way to its data past it.
struct Place {
    backend: Arc<dyn Backend>,
    raw: Raw,
}

enum Raw {
    File(rusqlite::Connection, PathBuf),
    Fleet {
        namespace: String,
        channel: Channel,
        store: Box<redis::Connection>,
    },
}

impl Place {
    fn file() -> Self {
        let path = tempfile::tempdir().unwrap().keep();
        let backend = Sqlite::open(path.join("jobs.db")).unwrap();
        let raw = rusqlite::Connection::open(path.join("jobs.db")).unwrap();
        let raw = Raw::File(raw, path);
        Self { backend, raw }
    }

    async fn fleet(namespace: &str, store: &Redis) -> Self {
        let rabbit = shared().rabbit.url();
        let url = BackendUrl::of(&format!("{rabbit}?ns={namespace}"), Some(&store.url())).unwrap();
        let connection = Connection::connect(&rabbit, ConnectionProperties::default())
            .await
            .unwrap();
        let raw = Raw::Fleet {
            namespace: namespace.into(),
            channel: connection.create_channel().await.unwrap(),
            store: Box::new(redis::Client::open(store.url()).unwrap().get_connection().unwrap()),
        };
        let backend = open(&url).unwrap();
        Self { backend, raw }
    }

    async fn all(namespace: &str) -> [Self; 2] {
        [Self::file(), Self::fleet(namespace, &shared().redis).await]
    }

    /// Puts bytes into the default queue as they are.
    async fn put_message(&self, body: &[u8]) {
        match &self.raw {
            Raw::File(file, _) => {
                let row = "INSERT INTO copies (key, queue, class, due, jobs, body) VALUES (0, 'default', 1, 0, 1, ?)";
                file.execute(row, [body]).unwrap();
            }
            Raw::Fleet { namespace, channel, .. } => {
                let queue = format!("mh.{namespace}.1.q.default.normal");
                let options = BasicPublishOptions::default();
                let sent = channel.basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    options,
                    body,
                    BasicProperties::default(),
                );
                sent.await.unwrap();
            }
        }
    }

    /// What was set aside unread.
    async fn aside(&self) -> Vec<u8> {
        match &self.raw {
            Raw::File(file, _) => file
                .query_row("SELECT body FROM unreadable", [], |row| row.get(0))
                .unwrap(),
            Raw::Fleet { namespace, channel, .. } => {
                let queue = format!("mh.{namespace}.1.unreadable");
                let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await;
                got.unwrap().unwrap().delivery.data
            }
        }
    }

    /// The bytes of a record, where it is there.
    fn record(&mut self, key: RecordKey) -> Option<Vec<u8>> {
        match &mut self.raw {
            Raw::File(file, _) => {
                let row = "SELECT body FROM records WHERE key = ?";
                file.query_row(row, [key.to_bytes()], |row| row.get(0)).ok()
            }
            Raw::Fleet { namespace, store, .. } => {
                let get = redis::cmd("GET")
                    .arg(redis_key(namespace, key))
                    .query::<Option<Vec<u8>>>(store);
                get.unwrap().map(|bytes| bytes[8..].to_vec())
            }
        }
    }

    /// Writes a record as it is, as somebody else: nobody can know of it without reading it.
    fn set_record(&mut self, key: RecordKey, body: &[u8]) {
        match &mut self.raw {
            Raw::File(file, _) => {
                let row = "INSERT OR REPLACE INTO records (key, body) VALUES (?, ?)";
                file.execute(row, rusqlite::params![key.to_bytes(), body]).unwrap();
            }
            Raw::Fleet { namespace, store, .. } => {
                let key = redis_key(namespace, key);
                let bytes = [&[7; 8], body].concat();
                let mut set = redis::cmd("SET");
                set.arg(key).arg(bytes).arg("PX").arg(600_000).exec(store).unwrap();
            }
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Self::File(_, folder) = self {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn redis_key(namespace: &str, key: RecordKey) -> String {
    let (RecordKey::Parcel(id) | RecordKey::Own(id)) = key;
    let letter = char::from(key.to_bytes()[0]);
    format!("mh:{{{namespace}.0}}:{letter}:{id}")
}

fn worker() -> Mailbox {
    Mailbox::from_random([1; 16])
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let came = tokio::time::timeout(SOON, consumer.deliveries.recv()).await;
    came.expect("a delivery in time").unwrap()
}

/// A worker that knows the task meets each job of a delivery.
async fn meet(backend: &Arc<dyn Backend>, delivery: &Delivery) -> Vec<Meeting> {
    let claims = (1..).zip(delivery.parcel.jobs()).map(|(token, copy)| Claim {
        copy: copy.clone(),
        situation: Situation {
            not_understood: copy.not_understood().next().map(str::to_owned),
            ..Situation::new(worker(), token, Timestamp::default())
        },
    });
    backend.claim(claims.collect()).await.unwrap()
}

async fn push(backend: &Arc<dyn Backend>, parcel: Parcel) {
    let pushed = backend.push(vec![parcel]).await;
    assert_eq!(pushed, [millhand_broker::Pushed::Accepted]);
    backend.flush().await;
}

async fn consume(backend: &Arc<dyn Backend>, queue: &str) -> Consumer {
    let subscription = Subscription {
        worker: worker(),
        queue: QueueName::new(queue).unwrap(),
        prefetch: 10,
    };
    backend.consume(subscription).await.unwrap()
}

async fn states(backend: &Arc<dyn Backend>, ids: impl Iterator<Item = JobId>) -> Vec<Option<State>> {
    let views = backend.read(ids.collect()).await.unwrap();
    views
        .into_iter()
        .map(|view| view.map(|view| view.entry.state))
        .collect()
}

async fn settle(backend: &Arc<dyn Backend>, delivery: &Delivery, verdict: Verdict) {
    let settlement = Settlement {
        delivery: delivery.id,
        copy: delivery.parcel.jobs()[0].clone(),
        verdict,
        log: None,
    };
    assert_eq!(backend.settle(vec![settlement]).await.unwrap(), [Settled::Done]);
}

async fn run(backend: &Arc<dyn Backend>, delivery: &Delivery) -> Fence {
    match meet(backend, delivery).await.remove(0) {
        Meeting::Run { fence, .. } => fence,
        other => panic!("leave to run was expected: {other:?}"),
    }
}

async fn succeed(backend: &Arc<dyn Backend>, delivery: &Delivery) {
    let verdict = Verdict::Succeed {
        fence: run(backend, delivery).await,
        result: Payload::encode("done").unwrap(),
        receipt: Receipt::default(),
        children: Vec::new(),
    };
    settle(backend, delivery, verdict).await;
}

fn core(id: JobId, now: Timestamp) -> Core {
    Core {
        args: Payload::encode("args").unwrap().bytes,
        ..Core::new(id, TaskName::new("act").unwrap(), QueueName::default(), now)
    }
}

/// A job that is there already.
async fn one(backend: &Arc<dyn Backend>) -> JobId {
    let now = backend.now();
    let id = JobId::minted(now, 1, 0);
    push(backend, Parcel::of(JobCopy::first(core(id, now)))).await;
    id
}

/// The frozen parcels are as old as data can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parcels_of_the_first_version_come_as_they_were_and_are_met_as_they_say() {
    for name in ["minimal", "retry", "three", "unknown"] {
        let sent = parcel(name);
        let [file, fleet] = Place::all(&format!("golden-{name}")).await;
        let memory = Memory::open().unwrap() as Arc<dyn Backend>;
        for backend in [&memory, &file.backend, &fleet.backend] {
            let mut consumer = consume(backend, sent.queue().as_str()).await;
            push(backend, sent.clone()).await;
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.parcel.encode(), golden(name), "{name}");
            let met = meet(backend, &delivery).await;
            let expected = match (name, &met[..]) {
                ("minimal", [Meeting::Run { fence, .. }]) if fence.hand == 0 => State::Running,
                // One attempt has failed.
                ("retry", [Meeting::Run { fence, .. }]) if fence.hand == 1 => State::Running,
                ("three", [Meeting::Ended(State::Expired), _, _]) => State::Expired,
                ("unknown", [Meeting::Parked(_)]) => State::Queued,
                _ => panic!("{name}: {met:?}"),
            };
            let seen = states(backend, sent.jobs().iter().map(JobCopy::id)).await;
            assert!(seen.iter().all(|state| *state == Some(expected)), "{name}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_the_first_version_is_read() {
    let bytes = golden("record");
    let record = Record::decode(&bytes).unwrap();
    let first = parcel("minimal").jobs()[0].id();
    let ids: Vec<JobId> = (0..7).map(|index| first.sibling(index)).collect();
    for mut place in Place::all("golden-record").await {
        place.set_record(first.record_at(0), &bytes);
        let states = states(&place.backend, ids.iter().copied()).await;
        for (entry, state) in record.entries.iter().zip(states) {
            // The job that has moved is told of elsewhere, and nothing is there.
            assert_eq!(state, (!entry.moved).then_some(entry.state), "{entry:?}");
        }
    }
}

/// The record of one job, as a newer version may write it: with a field more in each of its maps.
fn with_more(record: &[u8]) -> Vec<u8> {
    let mut bytes = record.to_vec();
    let entry = bytes.windows(3).position(|w| w == b"\xa1e\x91").unwrap() + 3;
    for map in [entry, 0] {
        assert!((0x81..0x8f).contains(&bytes[map]), "a short map");
        bytes[map] += 1;
        bytes.splice(map + 1..map + 1, *b"\xa5newer\x81\xa1x\xc0");
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_version_added_to_a_record_stops_nobody() {
    for mut place in Place::all("more").await {
        let mut consumer = consume(&place.backend, "default").await;
        let id = one(&place.backend).await;
        let delivery = next(&mut consumer).await;
        let fence = run(&place.backend, &delivery).await;
        let before = place.record(id.record_at(0)).unwrap();
        place.set_record(id.record_at(0), &with_more(&before));
        assert_eq!(states(&place.backend, [id].into_iter()).await, [Some(State::Running)]);
        let verdict = Verdict::Succeed {
            fence,
            result: Payload::encode("done").unwrap(),
            receipt: Receipt::default(),
            children: Vec::new(),
        };
        settle(&place.backend, &delivery, verdict).await;
        assert_eq!(states(&place.backend, [id].into_iter()).await, [Some(State::Succeeded)]);
        // Whoever writes a record writes it whole, as he knows it.
        let after = place.record(id.record_at(0)).unwrap();
        assert!(
            !after.windows(5).any(|w| w == b"newer"),
            "it was kept, and the documents say otherwise"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_newer_version_costs_no_job() {
    for mut place in Place::all("newer-record").await {
        let id = one(&place.backend).await;
        // It says that the job has ended, which this version cannot know.
        let mut record = Record::new(QueueName::default(), Class::Normal);
        record.put(Entry {
            state: State::Succeeded,
            ended: Some(place.backend.now()),
            ..Entry::accepted(&JobCopy::first(core(id, place.backend.now())))
        });
        let mut bytes = record.encode().unwrap();
        assert_eq!(bytes[1..4], *b"\xa1v\x01");
        bytes[3] = 2;
        place.set_record(id.record_at(0), &bytes);
        let mut consumer = consume(&place.backend, "default").await;
        let delivery = next(&mut consumer).await;
        succeed(&place.backend, &delivery).await;
        assert_eq!(states(&place.backend, [id].into_iter()).await, [Some(State::Succeeded)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_of_a_newer_version_is_set_aside_in_sight() {
    for place in Place::all("newer-parcel").await {
        let mut consumer = consume(&place.backend, "default").await;
        let mut newer = golden("minimal").to_vec();
        let version = newer.windows(3).position(|w| w == b"\xa1v\x01").unwrap() + 2;
        newer[version] = 2;
        place.put_message(&newer).await;
        let id = one(&place.backend).await;
        // It stops nobody, and nothing says that its job is dead.
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.parcel.jobs()[0].id(), id);
        assert_eq!(
            states(&place.backend, [parcel("minimal").jobs()[0].id()].into_iter()).await,
            [None]
        );
        // It is set aside beside what else comes.
        let by = Instant::now() + Duration::from_secs(20);
        let unreadable = loop {
            let queues: HashMap<_, _> = place
                .backend
                .queues()
                .await
                .unwrap()
                .into_iter()
                .map(|q| (q.name.clone(), q))
                .collect();
            let unreadable = queues[&QueueName::default()].unreadable.clone();
            if !unreadable.is_empty() {
                break unreadable;
            }
            assert!(Instant::now() < by, "it is not set aside");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(unreadable.len(), 1);
        assert!(
            unreadable[0].reason.contains("version 2 is newer"),
            "{}",
            unreadable[0].reason
        );
        assert_eq!(place.aside().await, newer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_job_is_rebuilt_with_all_that_its_producer_wrote() {
    let store = Redis::start();
    let place = Place::fleet("newer-dead", &store).await;
    let mut consumer = consume(&place.backend, "default").await;
    // Its fields that must be understood are understood here.
    let sent = golden("unknown");
    push(&place.backend, parcel("unknown")).await;
    let delivery = next(&mut consumer).await;
    let id = delivery.parcel.jobs()[0].id();
    let now = place.backend.now();
    let death = Verdict::Leave {
        fence: None,
        successor: Successor {
            why: Leaving::Death,
            due: now,
        },
        reason: Some("no use".into()),
        note: None,
        receipt: None,
    };
    settle(&place.backend, &delivery, death).await;
    assert_eq!(states(&place.backend, [id].into_iter()).await, [Some(State::Dead)]);
    store.flush();
    assert_eq!(states(&place.backend, [id].into_iter()).await, [None]);
    let rebuilt = place.backend.rebuild(&mut |_| true).await.unwrap();
    assert_eq!(rebuilt.remembered, 1);
    assert_eq!(place.backend.act(vec![Act::Retry(id)]).await.unwrap(), [Acted::Done]);
    let again = next(&mut consumer).await;
    let bytes = again.parcel.encode();
    let length = |bytes: &[u8]| bytes.windows(2).position(|w| w == b"\x91\xc4").unwrap() + 2;
    let (before, after) = (length(&sent), length(&bytes));
    assert_eq!(bytes[..after], sent[..before], "the header");
    let core = sent.windows(4).position(|w| w == b"\x84\xa1h\x02").unwrap();
    let core = &sent[before + 1..core];
    assert_eq!(bytes[after + 1..after + 1 + core.len()], *core, "the core");
    assert!(bytes.ends_with(b"\xa5later\xa1x\xa3Hop\x90"), "the hop: {bytes:x?}");
}
