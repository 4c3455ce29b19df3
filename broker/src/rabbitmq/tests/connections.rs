//! Connections that are cut, refused or never answered, and the URLs that name them.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::*;

/// A way to the server that can be cut.
struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    /// Somebody came while it was shut.
    refused: Arc<Notify>,
}

impl Proxy {
    async fn start() -> Self {
        let uri = parse(&server()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        let refused = Arc::<Notify>::default();
        let refuses = Arc::clone(&refused);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut opened, refuses) = (opened.clone(), Arc::clone(&refuses));
                let to = (uri.authority.host.clone(), uri.authority.port);
                tokio::spawn(async move {
                    if !*opened.borrow_and_update() {
                        refuses.notify_one();
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
        Self { address, open, refused }
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
        proxy.refused.notified().await;
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
