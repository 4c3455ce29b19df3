//! The queue alone against a real RabbitMQ.

mod faults;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use millhand_proto::Class;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::*;
use crate::backend::Flow;
use crate::pair::queue::{Arrived, Generation, Route};

/// The server under test.
fn server() -> String {
    millhand_servers::shared().rabbit.url()
}

/// Long enough for anything that is to happen.
const SOON: Duration = Duration::from_secs(20);
/// How long nothing must come for it to count as nothing.
const QUIET: Duration = Duration::from_millis(400);

/// A namespace of its own for each test.
struct Place {
    namespace: String,
    names: Names,
}

impl Place {
    fn new() -> Self {
        let namespace = format!("t{:x}", crate::io::random());
        let names = Names::new(&namespace);
        Self { namespace, names }
    }

    fn open(&self, url: &str) -> Arc<RabbitMq> {
        RabbitMq::new(&Server::of(url), &self.namespace, Io::start("tests").unwrap()).unwrap()
    }
}

fn mail() -> QueueName {
    QueueName::new("mail").unwrap()
}

fn work(number: usize) -> Outgoing {
    let class = Class::ALL[number % 3];
    Outgoing::new(Route::Work(mail(), class), number.to_string().into())
}

fn later(wait: Duration, coarse: bool, body: &'static str) -> Outgoing {
    Outgoing::new(
        Route::Later(mail(), Class::Normal, wait, coarse),
        Bytes::from_static(body.as_bytes()),
    )
}

async fn publish(queue: &RabbitMq, messages: Vec<Outgoing>) {
    let answers = queue.publish(messages).await;
    assert!(answers.iter().all(|a| *a == Pushed::Accepted), "{answers:?}");
}

fn subscription(prefetch: usize) -> Subscription {
    Subscription {
        worker: WorkerId::from_random(uuid::Uuid::new_v4().into_bytes()),
        queue: mail(),
        prefetch,
    }
}

async fn next(arrivals: &mut Arrivals) -> Arrived {
    timeout(SOON, arrivals.arrived.recv())
        .await
        .expect("nothing came")
        .unwrap()
}

async fn message(arrivals: &mut Arrivals) -> Arrival {
    match next(arrivals).await {
        Arrived::Message(arrival) => arrival,
        Arrived::Lost(generation) => panic!("{generation:?} was lost"),
    }
}

async fn messages(arrivals: &mut Arrivals, count: usize) -> Vec<Arrival> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(message(arrivals).await);
    }
    all
}

async fn quiet(arrivals: &mut Arrivals) {
    if let Ok(came) = timeout(QUIET, arrivals.arrived.recv()).await {
        panic!("{came:?}");
    }
}

async fn lost(arrivals: &mut Arrivals) -> Generation {
    loop {
        if let Arrived::Lost(generation) = next(arrivals).await {
            return generation;
        }
    }
}

/// Waits until so many messages are ready.
async fn depth(queue: &RabbitMq, wanted: u64) {
    let by = Instant::now() + SOON;
    loop {
        let depth = queue.depths(vec![mail()]).await.unwrap();
        if depth == [wanted] {
            return;
        }
        assert!(Instant::now() < by, "{depth:?} messages are ready, not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A channel past the queue under test.
async fn beside() -> (Connection, Channel) {
    let connection = Connection::connect(&server(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// A way to the server that can be cut.
struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Proxy {
    async fn start() -> Self {
        let uri = parse(&server()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut opened = opened.clone();
                let to = (uri.authority.host.clone(), uri.authority.port);
                tokio::spawn(async move {
                    if !*opened.borrow_and_update() {
                        return;
                    }
                    let mut server = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = opened.changed() => {}
                    }
                });
            }
        });
        Self { address, open }
    }

    fn url(&self) -> String {
        let mut uri = parse(&server()).unwrap();
        uri.authority.host = self.address.ip().to_string();
        uri.authority.port = self.address.port();
        uri.to_string()
    }

    /// Ends all connections.
    fn cut(&self) {
        self.open.send_replace(true);
    }

    /// Ends all connections and lets none in until it is opened.
    fn shut(&self) {
        self.open.send_replace(false);
    }
}

#[tokio::test]
async fn what_is_published_is_consumed_once_and_acknowledged() {
    const MESSAGES: usize = 10_000;
    let place = Place::new();
    let queue = place.open(&server());
    let mut arrivals = queue.consume(subscription(200), false).await.unwrap();
    let batches = (0..MESSAGES).step_by(500).map(|from| {
        let batch = (from..from + 500).map(work).collect();
        publish(&queue, batch)
    });
    let sent = futures_util::future::join_all(batches);
    let received = async {
        let mut seen = HashMap::new();
        for number in 0..MESSAGES {
            let arrival = message(&mut arrivals).await;
            assert_eq!(arrival.redeliveries, 0);
            assert!(arrival.published_at.unwrap() <= arrival.taken_at);
            *seen.entry(arrival.body.clone()).or_insert(0) += 1;
            // Out of order, as jobs end.
            if number % 3 == 0 {
                tokio::task::yield_now().await;
            }
            queue.acknowledge(vec![arrival.id]);
        }
        seen
    };
    let (_, seen) = tokio::join!(sent, received);
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|times| *times == 1));
    drop(arrivals);
    depth(&queue, 0).await;
    // Had an acknowledgement been lost, the message would be back by now.
    let mut again = queue.consume(subscription(1), false).await.unwrap();
    quiet(&mut again).await;
}

#[tokio::test]
async fn a_delayed_message_is_not_early_and_a_little_late_at_most() {
    let queue = Place::new().open(&server());
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    let start = Instant::now();
    let waits = vec![
        later(Duration::from_secs(3), false, "3"),
        later(Duration::from_millis(900), true, "1"),
    ];
    publish(&queue, waits).await;
    let published = start.elapsed();
    for (body, wait) in [("1", Duration::from_secs(1)), ("3", Duration::from_secs(3))] {
        let arrival = message(&mut arrivals).await;
        assert_eq!(arrival.body, body);
        assert_eq!(arrival.redeliveries, 0);
        let late = start.elapsed();
        assert!(
            late >= wait && late < wait + published + Duration::from_secs(2),
            "{body} came after {late:?}"
        );
        queue.acknowledge(vec![arrival.id]);
    }
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, (0..30).map(work).collect()).await;
    let (_connection, channel) = beside().await;
    for class in [Class::High, Class::Low] {
        let name = place.names.work(&mail(), class);
        channel
            .queue_delete(name.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }
    // All go again, of which those that were not deleted are there twice: that is harmless.
    publish(&queue, (100..130).map(work).collect()).await;
    let mut arrivals = queue.consume(subscription(100), false).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    while (100..130).any(|n| !seen.contains(&Bytes::from(n.to_string()))) {
        let arrival = message(&mut arrivals).await;
        queue.acknowledge(vec![arrival.id]);
        seen.insert(arrival.body);
    }
}

#[tokio::test]
async fn a_deleted_ladder_is_declared_again() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, vec![later(Duration::from_secs(3600), false, "much later")]).await;
    let (_connection, channel) = beside().await;
    for name in (0..3).map(|level| place.names.level(level)).chain([place.names.due()]) {
        let deleted = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default());
        deleted.await.unwrap();
        let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    let waits = vec![
        later(Duration::from_secs(1), false, "1"),
        later(Duration::from_secs(3), false, "3"),
    ];
    publish(&queue, waits).await;
    for body in ["1", "3"] {
        assert_eq!(message(&mut arrivals).await.body, body);
    }
}

#[tokio::test]
async fn a_lost_consumer_is_made_again() {
    let place = Place::new();
    let queue = place.open(&server());
    let mut arrivals = queue.consume(subscription(5), false).await.unwrap();
    let (_connection, channel) = beside().await;
    let name = place.names.work(&mail(), Class::Normal);
    channel
        .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    lost(&mut arrivals).await;
    // Nobody has to publish before its queue is there again, and it consumes.
    let by = Instant::now() + SOON;
    loop {
        let (connection, channel) = beside().await;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asked = channel.queue_declare(name.as_str().into(), passive, lapin::types::FieldTable::default());
        if asked.await.is_ok_and(|queue| queue.consumer_count() == 1) {
            break;
        }
        assert!(Instant::now() < by, "nobody consumes");
        drop(connection);
        tokio::time::sleep(QUIET / 4).await;
    }
    publish(&queue, vec![work(1)]).await;
    assert_eq!(message(&mut arrivals).await.body, "1");
}

#[tokio::test]
async fn nothing_is_lost_when_connections_are_cut_and_the_prefetch_holds() {
    let proxy = Proxy::start().await;
    let place = Place::new();
    let queue = place.open(&proxy.url());
    let mut arrivals = queue.consume(subscription(5), false).await.unwrap();
    publish(&queue, (0..60).map(work).collect()).await;
    let first = messages(&mut arrivals, 15).await;
    quiet(&mut arrivals).await;

    proxy.shut();
    let sending = queue.publish((60..90).map(work).collect());
    let generation = lost(&mut arrivals).await;
    assert!(first.iter().all(|a| Generation::of(a.id).0 == generation));
    // Those ids have ended: this must acknowledge nothing of the next channel.
    queue.acknowledge(first.iter().map(|a| a.id).collect());
    let opened = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.open.send_replace(true);
    };
    let (answers, ()) = tokio::join!(sending, opened);
    assert!(answers.iter().all(|a| *a == Pushed::Accepted), "{answers:?}");

    let second = messages(&mut arrivals, 15).await;
    assert!(second.iter().all(|a| a.redeliveries <= 1), "{second:?}");
    quiet(&mut arrivals).await;
    let mut seen: std::collections::HashSet<Bytes> = second.iter().map(|a| a.body.clone()).collect();
    queue.acknowledge(second.iter().map(|a| a.id).collect());
    while seen.len() < 90 {
        match next(&mut arrivals).await {
            Arrived::Message(arrival) => {
                queue.acknowledge(vec![arrival.id]);
                seen.insert(arrival.body);
                if seen.len() == 50 {
                    proxy.cut();
                }
            }
            Arrived::Lost(_) => {}
        }
    }
}

/// lapin would keep every such connection, with its buffers, for as long as the server stands still.
#[tokio::test]
async fn a_server_that_never_answers_is_hung_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", silent.local_addr().unwrap());
    let queue = Place::new().open(&url);
    // It stays to the end: what it left behind would go with it.
    let asked = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.depths(vec![mail()]).await }
    });
    let (mut stream, _) = timeout(SOON, silent.accept()).await.unwrap().unwrap();
    let mut said = Vec::new();
    let read = timeout(SOON, tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said)).await;
    assert!(read.is_ok(), "it hangs on");
    assert!(asked.await.unwrap().is_err());
}

#[tokio::test]
async fn without_a_server_messages_are_rejected_in_time_and_questions_answered() {
    let proxy = Proxy::start().await;
    let queue = Place::new().open(&proxy.url());
    proxy.shut();
    let start = Instant::now();
    let answers = queue.publish(vec![work(1)]).await;
    assert!(matches!(&answers[..], [Pushed::Rejected(_)]), "{answers:?}");
    assert!(start.elapsed() < Duration::from_secs(25));
    assert!(matches!(
        queue.depths(vec![mail()]).await,
        Err(Error::Unreachable { .. })
    ));
    let refused = queue.consume(subscription(1), false).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })));
}

/// Two that make a level at once would lose the delay of a message now and then; see `ladder`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_alone_makes_levels_and_is_not_waited_for_for_ever() {
    let (_connection, channel) = beside().await;
    for lets_go in [true, false] {
        let place = Place::new();
        let queue = place.open(&server());
        let mut arrivals = queue.consume(subscription(1), false).await.unwrap();
        let making = place.names.making();
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let made = channel.queue_declare(making.as_str().into(), exclusive, lapin::types::FieldTable::default());
        made.await.unwrap();
        let published = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { publish(&queue, vec![later(Duration::from_secs(1), false, "soon")]).await }
        });
        sleep(QUIET).await;
        assert!(!published.is_finished());
        if lets_go {
            let let_go = channel.queue_delete(making.into(), QueueDeleteOptions::default());
            let_go.await.unwrap();
        }
        published.await.unwrap();
        message(&mut arrivals).await;
        // Where the levels are there, nobody waits.
        if !lets_go {
            let other = place.open(&server());
            timeout(
                SOON / 4,
                publish(&other, vec![later(Duration::from_secs(1), false, "more")]),
            )
            .await
            .unwrap();
        }
    }
}

#[tokio::test]
async fn a_changed_argument_is_explained() {
    let place = Place::new();
    let (_connection, channel) = beside().await;
    let name = place.names.work(&mail(), Class::High);
    let mut arguments = place.names.work_arguments();
    arguments.insert("x-delivery-limit".into(), lapin::types::AMQPValue::LongLongInt(5));
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.as_str().into(), durable, arguments)
        .await
        .unwrap();
    let queue = place.open(&server());
    let answers = queue.publish(vec![work(0), work(1)]).await;
    let Pushed::Rejected(why) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert!(
        why.contains(&name) && why.contains("x-delivery-limit = \"5\"") && why.contains("another namespace"),
        "{why}"
    );
    assert_eq!(answers[1], Pushed::Accepted);
    let refused = queue.consume(subscription(1), false).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Unusable { problem, .. } if problem == why),
        "{refused}"
    );
    assert!(matches!(queue.depths(vec![mail()]).await, Err(Error::Unusable { .. })));
}

#[tokio::test]
async fn held_delivers_nothing_and_open_goes_on() {
    let queue = Place::new().open(&server());
    let mut arrivals = queue.consume(subscription(100), true).await.unwrap();
    publish(&queue, (0..12).map(work).collect()).await;
    quiet(&mut arrivals).await;
    arrivals.flow.send_replace(Flow::Open(1));
    let first = messages(&mut arrivals, 3).await;
    quiet(&mut arrivals).await;
    // What is in hands stays valid while nothing comes.
    arrivals.flow.send_replace(Flow::Held);
    depth(&queue, 9).await;
    queue.acknowledge(first.iter().map(|a| a.id).collect());
    quiet(&mut arrivals).await;
    arrivals.flow.send_replace(Flow::Open(2));
    let second = messages(&mut arrivals, 6).await;
    assert!(second.iter().all(|a| a.redeliveries == 0), "{second:?}");
    queue.acknowledge(second.iter().map(|a| a.id).collect());
    let third = messages(&mut arrivals, 3).await;
    queue.acknowledge(third.iter().map(|a| a.id).collect());
    drop(arrivals);
    depth(&queue, 0).await;
}

/// A worker whose slots wait until it has got rid of something can never empty a queue that is too full to take
/// it.
#[tokio::test]
async fn what_a_full_queue_refuses_goes_by_the_ladder_when_it_must() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, vec![work(1)]).await;
    let pattern = format!("^{}$", place.names.work(&mail(), Class::ALL[1]).replace('.', "\\."));
    let policy = [
        "set_policy",
        "full-mail",
        &pattern,
        r#"{"max-length":1}"#,
        "--apply-to",
        "queues",
    ];
    let rabbit = &millhand_servers::shared().rabbit;
    rabbit.ctl(&policy);
    // RabbitMQ applies a policy a little later, and one message may still get in.
    let refused = loop {
        match queue.publish(vec![work(1)]).await.remove(0) {
            Pushed::Accepted => {}
            Pushed::Rejected(why) => break why,
            Pushed::Unknown(why) => panic!("{why}"),
        }
    };
    assert!(refused.contains("full"), "{refused}");
    // Some of them may still get in.
    let must = || Outgoing::new(Route::Work(mail(), Class::ALL[1]), Bytes::from_static(b"must")).or_later();
    publish(&queue, (0..200).map(|_| must()).collect()).await;
    rabbit.ctl(&["clear_policy", "full-mail"]);
}

/// As one may be for minutes after its server was killed and is there again.
#[tokio::test]
async fn a_queue_that_confirms_nothing_holds_up_no_other() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, (0..3).map(work).collect()).await;
    let stopped = place.names.work(&mail(), Class::ALL[1]);
    let rabbit = &millhand_servers::shared().rabbit;
    rabbit.ctl(&["eval", &format!("sys:suspend('%2F_{stopped}').")]);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        // One after the other, so that each has a window.
        let queue = Arc::clone(&queue);
        let mut publishes = tokio::spawn(async move { queue.publish(vec![work(1), work(0)]).await });
        assert!(timeout(QUIET / 4, &mut publishes).await.is_err(), "it is confirmed");
        waiting.push(publishes);
    }
    publish(&queue, vec![work(0), work(2)]).await;
    rabbit.ctl(&["eval", &format!("sys:resume('%2F_{stopped}').")]);
    for publishes in waiting {
        // On a slow machine their time may be up.
        let answers = publishes.await.unwrap();
        let known = |answer: &Pushed| matches!(answer, Pushed::Accepted | Pushed::Unknown(_));
        assert!(answers.iter().all(known), "{answers:?}");
    }
    publish(&queue, vec![work(1)]).await;
}

#[tokio::test]
async fn what_a_worker_that_leaves_holds_goes_back() {
    let queue = Place::new().open(&server());
    let subscription = subscription(10);
    let mut arrivals = queue.consume(subscription.clone(), false).await.unwrap();
    publish(&queue, (0..9).map(work).collect()).await;
    let held = messages(&mut arrivals, 9).await;
    queue.acknowledge(held[..4].iter().map(|a| a.id).collect());
    queue.leave(subscription.worker).await;
    assert!(arrivals.arrived.recv().await.is_none());
    depth(&queue, 5).await;
    let mut arrivals = queue.consume(subscription, false).await.unwrap();
    let again = messages(&mut arrivals, 5).await;
    assert!(again.iter().all(|a| a.redeliveries == 1), "{again:?}");
}

#[tokio::test]
async fn side_queues_give_what_is_taken_until_it_is_acknowledged() {
    let queue = Place::new().open(&server());
    let aside =
        |body: &'static str, keep| Outgoing::new(Route::Side(Side::Dead, keep), Bytes::from_static(body.as_bytes()));
    publish(
        &queue,
        vec![
            aside("a", None),
            aside("b", None),
            aside("c", Some(Duration::from_millis(1))),
        ],
    )
    .await;
    let mut taken = queue.take(Side::Dead, 2).await.unwrap();
    assert_eq!(taken.len(), 2);
    assert!(queue.take(Side::Dead, 10).await.unwrap().iter().all(|a| a.body == "c"));
    taken.sort_by_key(|a| a.body.clone());
    queue.acknowledge(taken.iter().map(|a| a.id).collect());
    let by = Instant::now() + SOON;
    while queue.depth_of(Side::Dead).await.unwrap() > 0 {
        assert!(Instant::now() < by);
    }
    assert_eq!(queue.depth_of(Side::Lost).await.unwrap(), 0);
    publish(&queue, (0..7).map(work).collect()).await;
    assert_eq!(queue.purge(mail()).await.unwrap(), 7);
    assert_eq!(
        queue
            .depths(vec![mail(), QueueName::new("other").unwrap()])
            .await
            .unwrap(),
        [0, 0]
    );
}

#[tokio::test]
async fn a_wrong_password_or_vhost_is_told_without_the_password() {
    let mut uri = parse(&server()).unwrap();
    uri.authority.userinfo.password = "sesame".into();
    let queue = Place::new().open(&uri.to_string());
    let start = Instant::now();
    let refused = queue.depths(vec![mail()]).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Unusable { problem, .. } if problem.contains("user or password")),
        "{refused}"
    );
    assert!(!format!("{refused:?} {queue:?}").contains("sesame"));
    let answers = queue.publish(vec![work(1)]).await;
    assert!(
        matches!(&answers[..], [Pushed::Rejected(why)] if why.contains("user or password")),
        "{answers:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));

    let mut uri = parse(&server()).unwrap();
    uri.vhost = "nowhere".into();
    let refused = Place::new()
        .open(&uri.to_string())
        .depths(vec![mail()])
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Error::Unusable { problem, .. } if problem.contains("nowhere")),
        "{refused}"
    );
}

#[test]
fn urls() {
    let uri = parse("amqp://u:p@[::1]:1234/?heartbeat=5").unwrap();
    assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("::1", 1234));
    assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("/", Some(5)));
    assert_eq!(parse("amqp://h").unwrap().vhost, "/");
    assert_eq!(parse("amqp://h/a%2fb").unwrap().vhost, "a/b");
    let problem = parse("amqp://u:secret@h:99999").unwrap_err();
    assert!(!problem.contains("secret"));
    assert!(parse(&format!("amqp://h/{}", "v".repeat(256))).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_its_consumer_starts_has_given_all_back() {
    let place = Place::new();
    let queue = place.open(&server());
    for patience in 0..24 {
        publish(&queue, (0..30).map(work).collect()).await;
        let subscription = subscription(30);
        let worker = subscription.worker;
        let patience = Duration::from_micros(patience * 500);
        let _ = timeout(patience, queue.consume(subscription, false)).await;
        queue.leave(worker).await;
        assert_eq!(queue.purge(mail()).await.unwrap(), 30, "given up after {patience:?}");
    }
}
