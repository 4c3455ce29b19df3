//! What a producer with access to RabbitMQ may publish to a work queue: it costs no other job anything.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use millhand::{Client, Context, Failure, JobId, QueueName, State, Task, TaskName, Timestamp, Worker};
use millhand_proto::{Core, Parcel, Payload};
use millhand_servers::shared;
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Plain {
    n: u64,
}

impl Task for Plain {
    const NAME: &'static str = "plain";
    type Output = u64;
}

async fn plain(job: Plain, _: Context) -> Result<u64, Failure> {
    Ok(job.n)
}

/// A worker in its own namespace, and a client; until `stop`.
struct Scene {
    client: Client,
    queue: String,
    stop: tokio::sync::oneshot::Sender<()>,
    worker: tokio::task::JoinHandle<Result<(), millhand::WorkerError>>,
}

impl Scene {
    async fn new(namespace: &str) -> Self {
        let urls = [&shared().rabbit.url(), &shared().redis.url()].map(|url| format!("{url}?ns={namespace}"));
        let client = Client::fleet(&urls[0], &urls[1]).await.unwrap();
        let worker = Worker::new(millhand::fleet(&urls[0], &urls[1]).unwrap()).on_async(plain);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));
        let scene = Self {
            client,
            queue: format!("mh.{namespace}.1.q.default.normal"),
            stop,
            worker,
        };
        // The queue is there when this has run.
        scene.a_good_job_runs().await;
        scene
    }

    async fn a_good_job_runs(&self) {
        let ended = self.client.enqueue(Plain { n: 7 }).await.unwrap().wait(SOON).await;
        assert_eq!(ended.unwrap().unwrap(), 7);
    }

    /// A channel whose messages are confirmed, and its connection, which must stay.
    async fn channel(&self) -> (Connection, Channel) {
        let (url, properties) = (shared().rabbit.url(), ConnectionProperties::default());
        let connection = Connection::connect(&url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        (connection, channel)
    }

    /// It is in the queue when this returns.
    async fn publish(&self, channel: &Channel, body: &[u8], properties: BasicProperties) {
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let published = channel.basic_publish("".into(), self.queue.as_str().into(), mandatory, body, properties);
        let confirmed = published.await.unwrap().await.unwrap();
        // Not returned, and not taken without a word.
        assert!(matches!(confirmed, Confirmation::Ack(None)), "{confirmed:?}");
    }

    /// The job comes to this state. Nobody enqueued it, so its record begins with what is made of it.
    async fn comes_to(&self, state: State, id: JobId, what: &str) -> Option<String> {
        let end = Instant::now() + SOON;
        loop {
            match self.client.get(id).await.unwrap().map(|known| known.entry) {
                Some(entry) if entry.state == state => return entry.reason,
                other => assert!(Instant::now() < end, "{what}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        let _ = self.stop.send(());
        self.worker.await.unwrap().unwrap();
    }
}

/// A job as it travels. Those of one `n` share a record.
fn job(n: u64, index: u16) -> Core {
    let now = Timestamp::from_micros(1_790_000_000_000_000);
    let mut core = Core::new(
        JobId::minted(now, n, index),
        TaskName::new("plain").unwrap(),
        QueueName::default(),
        now,
    );
    core.args = Payload::encode(&Plain { n: 7 }).unwrap().bytes;
    core
}

/// A good parcel, of the job `n`.
fn good(n: u64) -> (JobId, Vec<u8>) {
    let core = job(n, 0);
    (core.id, Parcel::pack(vec![core]).unwrap().encode())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_parcel_are_set_aside_with_their_reason_and_a_good_job_runs() {
    let scene = Scene::new("bad-bodies").await;
    let (_connection, channel) = scene.channel().await;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/parcel");
    let mut junk = 0;
    for file in std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap()) {
        if file.file_name().to_string_lossy().starts_with("bad-") {
            let body = std::fs::read(file.path()).unwrap();
            scene.publish(&channel, &body, BasicProperties::default()).await;
            junk += 1;
        }
    }
    assert!(junk > 10, "the corpus has {junk} bad parcels");
    // A parcel of another queue, and a job that could be read no further than its id.
    let other = QueueName::new("other").unwrap();
    let now = Timestamp::from_micros(1_790_000_000_000_000);
    let core = |n, queue: &QueueName| {
        Core::new(
            JobId::minted(now, n, 0),
            TaskName::new("plain").unwrap(),
            queue.clone(),
            now,
        )
    };
    let elsewhere = core(1, &other);
    let mut misspelt = core(2, &QueueName::default());
    misspelt.tags = vec!["x".repeat(65)];
    for core in [&elsewhere, &misspelt] {
        let body = Parcel::pack(vec![core.clone()]).unwrap().encode();
        scene.publish(&channel, &body, BasicProperties::default()).await;
        junk += 1;
    }
    scene.a_good_job_runs().await;
    for (id, why) in [(elsewhere.id, "queue other"), (misspelt.id, "\"tg\"")] {
        let reason = scene.comes_to(State::Dead, id, why).await.unwrap();
        assert!(reason.starts_with("unreadable: ") && reason.contains(why), "{reason}");
    }
    let end = Instant::now() + SOON;
    loop {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let aside = channel.queue_declare("mh.bad-bodies.1.unreadable".into(), passive, FieldTable::default());
        let aside = aside.await.unwrap().message_count();
        // One that is delivered again is set aside again.
        if aside >= junk {
            break;
        }
        assert!(Instant::now() < end, "{aside} of {junk} are set aside");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_body_runs_whatever_properties_it_comes_with() {
    let scene = Scene::new("bad-properties").await;
    let (_connection, channel) = scene.channel().await;
    let mut nested = AMQPValue::Void;
    for _ in 0..100 {
        nested = AMQPValue::FieldArray(FieldArray::from(vec![nested]));
    }
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("count".into(), AMQPValue::LongLongInt(i64::MAX));
    death.insert("queue".into(), text("another"));
    let with = |key: &str, value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(key.into(), value);
        BasicProperties::default().with_headers(headers)
    };
    let plain = BasicProperties::default;
    let list =
        |names: &[&str]| AMQPValue::FieldArray(FieldArray::from(names.iter().map(|n| text(n)).collect::<Vec<_>>()));
    let cases = [
        ("no properties", plain()),
        ("another content type", plain().with_content_type("text/html".into())),
        ("another encoding", plain().with_content_encoding("gzip".into())),
        ("priority 255", plain().with_priority(255)),
        (
            "an answer asked for, to a queue of ours",
            plain().with_reply_to("mh.bad-properties.1.dead".into()),
        ),
        ("a time before all", plain().with_timestamp(u64::MAX)),
        ("headers 100 deep", with("x-nested", nested)),
        (
            "a forged death",
            with(
                "x-death",
                AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()),
            ),
        ),
        ("death of another type", with("x-death", text("yes"))),
        ("deliveries -1", with("x-delivery-count", AMQPValue::LongLongInt(-1))),
        ("deliveries as text", with("x-delivery-count", text("many"))),
        (
            "deliveries without end",
            with("x-acquired-count", AMQPValue::LongLongInt(i64::MAX)),
        ),
        ("published at no time", with("at", AMQPValue::LongLongInt(i64::MIN))),
        (
            "published after all times",
            with("at", AMQPValue::LongLongInt(i64::MAX)),
        ),
        ("a copy to nowhere", with("CC", list(&["nowhere"]))),
        ("a blind copy to nowhere", with("BCC", list(&["nowhere"]))),
    ];
    let mut jobs = Vec::new();
    for (n, (what, properties)) in (100..).zip(cases) {
        let (id, body) = good(n);
        scene.publish(&channel, &body, properties).await;
        jobs.push((id, what));
    }
    // A count that is believed: the parcel is split before anything in it runs.
    let two = [job(150, 0), job(150, 1)];
    jobs.extend(
        two.iter()
            .map(|core| (core.id, "of a parcel that seems to have come five times")),
    );
    let body = Parcel::pack(two.to_vec()).unwrap().encode();
    let counted = with("x-acquired-count", AMQPValue::LongLongInt(5));
    scene.publish(&channel, &body, counted).await;
    for (id, what) in jobs {
        scene.comes_to(State::Succeeded, id, what).await;
    }
    scene.a_good_job_runs().await;
    scene.end().await;
}

/// Text that is no UTF-8, and tables deeper than any stack, are what lapin's parser does not survive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_body_runs_also_with_properties_that_no_library_writes() {
    let scene = Scene::new("raw-properties").await;
    let long = |len: usize| u32::try_from(len).unwrap().to_be_bytes();
    let headers = |table: &[u8]| [&b"\x20\0"[..], &long(table.len()), table].concat();
    let mut nested = vec![b'V'];
    for _ in 0..10_000 {
        nested = [&b"A"[..], &long(nested.len()), &nested].concat();
    }
    let nested = [&b"\x01x"[..], &nested].concat();
    let copies = [
        &b"\x02CCA"[..],
        &long(5 + scene.queue.len()),
        b"S",
        &long(scene.queue.len()),
        scene.queue.as_bytes(),
    ];
    let queue = scene.queue.as_bytes();
    let cases: [(&str, &[u8], Vec<u8>); 5] = [
        ("a header's name is no text", queue, headers(b"\x02\xff\xfet\x01")),
        ("headers 10,000 deep", queue, headers(&nested)),
        ("the content's type is no text", queue, b"\x80\0\x01\xff".to_vec()),
        ("the sender's name is no text", queue, b"\0\x08\x01\xff".to_vec()),
        ("its key is no text", b"\xff", headers(&copies.concat())),
    ];
    let mut jobs = Vec::new();
    for (n, (what, key, properties)) in (200..).zip(cases) {
        let (id, body) = good(n);
        publish_raw(key, &properties, &body);
        jobs.push((id, what));
        scene.a_good_job_runs().await;
    }
    for (id, what) in jobs {
        scene.comes_to(State::Succeeded, id, what).await;
    }
    scene.end().await;
}

/// Publishes with these bytes as properties, which begin with their flags.
fn publish_raw(key: &[u8], properties: &[u8], body: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", shared().rabbit.port())).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let send = |stream: &mut TcpStream, kind: u8, channel: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind, 0, channel][..], &length, payload, &[0xce]].concat();
        stream.write_all(&frame).unwrap();
    };
    let receive = |stream: &mut TcpStream| {
        let mut head = [0; 7];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        stream.read_exact(&mut payload).unwrap();
        payload.pop();
        payload
    };
    stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
    receive(&mut stream);
    let login = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    send(&mut stream, 1, 0, login);
    let tune = receive(&mut stream);
    send(&mut stream, 1, 0, &[b"\0\x0a\0\x1f", &tune[4..]].concat());
    send(&mut stream, 1, 0, b"\0\x0a\0\x28\x01/\0\0");
    receive(&mut stream);
    send(&mut stream, 1, 1, b"\0\x14\0\x0a\0");
    receive(&mut stream);
    // Confirms, so that it is known when the message is in its queue.
    send(&mut stream, 1, 1, b"\0\x55\0\x0a\0");
    receive(&mut stream);
    let key = [&[u8::try_from(key.len()).unwrap()][..], key].concat();
    // Mandatory: one that goes nowhere comes back before its confirm.
    send(&mut stream, 1, 1, &[&b"\0\x3c\0\x28\0\0\0"[..], &key, b"\x01"].concat());
    let size = (body.len() as u64).to_be_bytes();
    send(&mut stream, 2, 1, &[&b"\0\x3c\0\0"[..], &size, properties].concat());
    send(&mut stream, 3, 1, body);
    assert_eq!(receive(&mut stream)[..4], *b"\0\x3c\0\x50", "the confirm");
}
