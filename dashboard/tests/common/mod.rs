//! A dashboard over jobs that were made for it, and a client that speaks to it byte by byte.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millhand_broker::Backend;
use millhand_client::{Client, Job};
use millhand_dashboard::Dashboard;
use millhand_proto::{JobId, Task};
use millhand_worker::{Context, Failure, Worker};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const LONG: Duration = Duration::from_secs(30);
/// What a page must show as text.
pub(crate) const HOSTILE: &str = "<script>alert('x')</script><img src=x onerror=alert(1)>";

#[derive(Serialize, Deserialize)]
pub(crate) struct Echo {
    pub(crate) text: String,
}

impl Task for Echo {
    const NAME: &'static str = "echo";
    type Output = String;
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Break {
    pub(crate) text: String,
}

impl Task for Break {
    const NAME: &'static str = "break";
    type Output = ();
}

pub(crate) fn echo(text: &str) -> Echo {
    Echo { text: text.into() }
}

/// Runs what waits in `queue`.
pub(crate) async fn work(backend: &Arc<dyn Backend>, queue: &str) {
    Worker::new(Arc::clone(backend))
        .queues([queue])
        .on_async(|job: Echo, _: Context| async move { Ok::<_, Failure>(job.text) })
        .on_async(|job: Break, _: Context| async move { Err::<(), _>(Failure::fatal(job.text)) })
        .run_until_idle()
        .await
        .unwrap();
}

/// Jobs in several states: the ids of one that succeeded and one that is dead.
pub(crate) async fn fill(backend: &Arc<dyn Backend>) -> (JobId, JobId) {
    let client = Client::new(Arc::clone(backend));
    let done = client.enqueue(echo(HOSTILE)).await.unwrap();
    for n in 0..24 {
        client.enqueue(echo(&format!("n {n}"))).await.unwrap();
    }
    let dead = Break { text: HOSTILE.into() };
    let dead = client.enqueue(dead).await.unwrap();
    work(backend, "default").await;
    let later = Job::of(echo("later")).delay(Duration::from_secs(3600)).queue("slow");
    client.enqueue(later).await.unwrap();
    client.enqueue(Job::of(echo("waits")).queue("lonely")).await.unwrap();
    (done.id(), dead.id())
}

/// A dashboard that serves, until it is stopped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn start(backend: &Arc<dyn Backend>) -> Self {
        Self::start_at(backend, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(backend: &Arc<dyn Backend>, at: &str) -> Self {
        let client = Client::new(Arc::clone(backend));
        let dashboard = Dashboard::bind(client, at.parse().unwrap()).await.unwrap();
        let address = dashboard.address();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(dashboard.serve(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            stop: Some(stop),
            served,
        }
    }

    /// Stops it, and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(LONG, self.served).await.unwrap().unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.address))
            .await
    }

    /// Sends the head of a request, without its last line, and reads the whole answer.
    pub(crate) async fn ask(&self, head: &str) -> Answer {
        let mut stream = self.send(&format!("{head}Connection: close\r\n\r\n")).await;
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        tokio::time::timeout(LONG, read).await.unwrap().unwrap();
        Answer::of(&String::from_utf8(bytes).unwrap())
    }

    pub(crate) async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Listens as an open page does.
    pub(crate) async fn listen(&self, path: &str) -> TcpStream {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
            .await
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| value)
    }
}

/// Reads from a stream until `wanted` has come; answers all that came.
pub(crate) async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut all, mut bytes) = (String::new(), vec![0; 64 << 10]);
    let reading = async {
        while !all.contains(wanted) {
            match stream.read(&mut bytes).await.unwrap() {
                0 => panic!("the stream ended before {wanted:?}: {all}"),
                n => all.push_str(&String::from_utf8_lossy(&bytes[..n])),
            }
        }
    };
    tokio::time::timeout(LONG, reading)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} did not come"));
    all
}
