//! One connection: made when somebody needs it, dropped whole at a fault, made again with a growing
//! pause. Channels and what else was on it are made again by whoever used it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use millhand_proto::limits;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::stream;
use super::topology::Topology;
use super::trouble::Trouble;
use crate::error::{Error, Result};
use crate::io::{Io, jitter};
use crate::lock::lock;
use crate::tls::{self, Tls};

/// How long the making of a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Pauses between tries to connect: the first, and the longest. A connection that lives for longer
/// than that is a good one.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that was made.
pub(super) struct Wire {
    connection: Connection,
    place: Arc<str>,
    /// Why RabbitMQ lets nobody publish, while it does not.
    pub(super) blocked: watch::Sender<Option<String>>,
    pub(super) topology: Topology,
    dropped: watch::Sender<Option<String>>,
    /// When something was published first since something was confirmed last.
    unconfirmed: Mutex<Option<Instant>>,
    /// Its stream ends with it.
    _stream: DropGuard,
}

impl std::fmt::Debug for Wire {
    /// Without what lapin holds, which knows the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Whether it can still be used.
    pub(super) fn is_up(&self) -> bool {
        self.dropped.borrow().is_none() && self.connection.status().connected()
    }

    fn unconfirmed(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.unconfirmed)
    }

    /// Something goes out.
    pub(super) fn published(&self) {
        self.unconfirmed().get_or_insert_with(Instant::now);
    }

    /// The server confirms.
    pub(super) fn confirmed(&self) {
        *self.unconfirmed() = None;
    }

    /// How long the server has confirmed nothing of what went out.
    pub(super) fn unconfirmed_for(&self) -> Duration {
        self.unconfirmed().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Gives it up: it is closed, and another one made.
    pub(super) fn give_up(&self, why: &str) {
        self.dropped.send_if_modified(|dropped| {
            let first = dropped.is_none();
            dropped.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    /// Resolves when it cannot be used any more.
    pub(super) async fn gone(&self) {
        let mut dropped = self.dropped.subscribe();
        let _ = dropped.wait_for(Option::is_some).await;
    }

    /// Waits while RabbitMQ blocks publishers.
    pub(super) async fn unblocked(&self) {
        let mut blocked = self.blocked.subscribe();
        let _ = blocked.wait_for(Option::is_none).await;
    }

    /// What went wrong on it, in words; a connection that it cost is given up.
    pub(super) fn trouble(&self, error: &lapin::Error) -> Trouble {
        if !self.connection.status().connected() {
            self.give_up(&error.to_string());
        }
        Trouble::of(error)
    }

    /// An answer of the server, within the time that it may take.
    pub(super) async fn answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> std::result::Result<T, Trouble> {
        match timeout(ANSWER, asked).await {
            Ok(answer) => answer.map_err(|error| self.trouble(&error)),
            Err(_) => match &*self.blocked.borrow() {
                Some(why) => Err(Trouble::blocked(why)),
                None => Err(Trouble::passing(format!(
                    "it did not answer for {} s",
                    ANSWER.as_secs()
                ))),
            },
        }
    }

    pub(super) async fn channel(&self) -> std::result::Result<Channel, Trouble> {
        self.answer(self.connection.create_channel()).await
    }

    /// A channel whose messages RabbitMQ confirms.
    pub(super) async fn confirming(&self) -> std::result::Result<Channel, Trouble> {
        let channel = self.channel().await?;
        self.answer(channel.confirm_select(ConfirmSelectOptions::default()))
            .await?;
        Ok(channel)
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Tries to connect that have ended.
    tries: u64,
    wire: Option<Arc<Wire>>,
    /// Why there is none.
    trouble: Option<Trouble>,
}

/// The connection, whichever it is now.
pub(super) struct Link {
    place: Arc<str>,
    /// What it is for, as RabbitMQ shows it.
    name: &'static str,
    uri: AMQPUri,
    tls: Option<Tls>,
    state: watch::Sender<State>,
    asked: Notify,
}

impl std::fmt::Debug for Link {
    /// Without the URL, which holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Seconds between heartbeats where the URL says nothing; a dead peer is noticed after two.
fn heartbeat() -> u16 {
    u16::try_from(limits::HEARTBEAT.as_secs()).unwrap_or(u16::MAX)
}

impl Link {
    /// Nothing is connected yet.
    pub(super) fn start(place: &str, name: &'static str, uri: &AMQPUri, tls: Option<&Tls>, io: &Io) -> Arc<Self> {
        let mut uri = uri.clone();
        uri.query.heartbeat.get_or_insert(heartbeat());
        let link = Arc::new(Self {
            place: place.into(),
            name,
            uri,
            tls: tls.cloned(),
            state: watch::Sender::default(),
            asked: Notify::new(),
        });
        io.handle().spawn(Arc::clone(&link).keep());
        link
    }

    /// The connection; when there is none, what the next try to make one brings.
    pub(super) async fn get(&self) -> Result<Arc<Wire>> {
        let mut states = self.state.subscribe();
        let tries = states.borrow().tries;
        loop {
            {
                let state = states.borrow_and_update();
                match (&state.wire, &state.trouble) {
                    (Some(wire), _) if wire.is_up() => return Ok(Arc::clone(wire)),
                    (None, Some(trouble)) if state.tries > tries => return Err(self.told(trouble)),
                    _ => {}
                }
            }
            self.asked.notify_one();
            states.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    pub(super) fn told(&self, trouble: &Trouble) -> Error {
        trouble.told(&self.place)
    }

    /// Why messages cannot be sent now, where that is known.
    pub(super) fn why(&self) -> Option<String> {
        let state = self.state.borrow();
        match &state.wire {
            Some(wire) => wire.blocked.borrow().as_deref().map(|why| Trouble::blocked(why).text),
            None => {
                let trouble = state.trouble.as_ref()?;
                Some(format!("RabbitMQ cannot be reached: {}", trouble.text))
            }
        }
    }

    /// Keeps a connection for those who ask.
    async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.asked.notified().await;
            let made = timeout(CONNECT, self.connect()).await;
            let made = made.unwrap_or_else(|_| Err(Trouble::passing("connecting took too long".into())));
            let since = Instant::now();
            let trouble = match made {
                Ok(wire) => {
                    self.state.send_modify(|state| {
                        if state.trouble.is_some() {
                            tracing::info!(broker = %self.place, connection = self.name, "connected again");
                        }
                        state.tries += 1;
                        state.wire = Some(Arc::clone(&wire));
                        state.trouble = None;
                    });
                    let why = wire.attend().await;
                    wire.give_up(&why);
                    tracing::warn!(broker = %self.place, connection = self.name, error = why, "the connection is dropped");
                    close(wire);
                    if since.elapsed() > LAST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    Trouble::passing(format!("the connection was lost: {why}"))
                }
                Err(trouble) => {
                    tracing::debug!(broker = %self.place, connection = self.name, error = trouble.text, "no connection");
                    self.state.send_modify(|state| state.tries += 1);
                    trouble
                }
            };
            self.state.send_modify(|state| {
                state.wire = None;
                state.trouble = Some(trouble);
            });
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&self) -> std::result::Result<Arc<Wire>, Trouble> {
        // lapin's own recovery stays off: it leaves channels behind that were closed by an error.
        let properties = ConnectionProperties::default().with_connection_name(format!("millhand {}", self.name).into());
        let wanted = CancellationToken::new();
        let stream = wanted.clone().drop_guard();
        let connection = stream::connect(self.uri.clone(), self.tls.clone(), wanted, properties).await;
        let connection = connection.map_err(|error| self.not_connected(&error))?;
        Ok(Arc::new(Wire {
            connection,
            place: Arc::clone(&self.place),
            blocked: watch::Sender::default(),
            topology: Topology::default(),
            dropped: watch::Sender::default(),
            unconfirmed: Mutex::default(),
            _stream: stream,
        }))
    }
}

impl Link {
    /// Why there is no connection.
    fn not_connected(&self, error: &lapin::Error) -> Trouble {
        let mut trouble = Trouble::of(error);
        match (error.kind(), &self.tls) {
            (ErrorKind::ParsingError(_), None) => {
                trouble.text = "it does not speak AMQP at this port: if it speaks TLS, use amqps://".into();
            }
            // The refusal of a server that speaks TLS may be lost with its connection.
            (ErrorKind::IOError(error), None) if tls::is_ended(error) => {
                trouble.text = format!("{}: if it speaks TLS at this port, use amqps://", trouble.text);
            }
            (ErrorKind::IOError(error), Some(tls)) if tls::is_ended(error) => {
                trouble.text = format!("{}: {}", trouble.text, tls.hint());
            }
            _ => {}
        }
        trouble
    }
}

impl Wire {
    /// Listens to what is told of the connection until it is gone, and says why.
    async fn attend(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut dropped = self.dropped.subscribe();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        tracing::warn!(broker = %self.place, why, "RabbitMQ blocks publishers; enqueueing waits");
                        self.blocked.send_replace(Some(why));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(broker = %self.place, "RabbitMQ lets publishers go on");
                        self.blocked.send_replace(None);
                    }
                    // A channel's error is told here too.
                    Some(Event::Error(error)) if !self.connection.status().connected() => return error.to_string(),
                    Some(_) => {}
                    None => return "it ended".into(),
                },
                _ = dropped.wait_for(Option::is_some) => return self.dropped.borrow().clone().unwrap_or_default(),
            }
        }
    }
}

/// Tells the server, without waiting for it.
fn close(wire: Arc<Wire>) {
    tokio::spawn(async move {
        let _ = timeout(ANSWER, wire.connection.close(200, "OK".into())).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_may_say_another_heartbeat() {
        let io = Io::start("tests").unwrap();
        let of = |url| {
            let uri = crate::rabbitmq::parse(url).unwrap();
            Link::start("nowhere", "tests", &uri, None, &io).uri.query.heartbeat
        };
        assert_eq!(of("amqp://nowhere").map(u64::from), Some(limits::HEARTBEAT.as_secs()));
        assert_eq!(of("amqp://nowhere?heartbeat=3"), Some(3));
    }
}
