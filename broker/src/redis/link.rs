//! The connection: made at first use, dropped at any fault, made again. Nothing waits here for a
//! server that is away; who asks learns it and asks again.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millhand_proto::{Timestamp, limits};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue, PushInfo, PushKind, Script, Value,
    cmd,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::keys::Names;
use super::mail::Mailboxes;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::lock::lock;
use crate::pair::store::Epoch;
use crate::tls::Tls;
use crate::url::Server;

/// How long the making of a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest pause between two tries to connect while mailboxes are open.
const PAUSE: Duration = Duration::from_secs(2);
/// What marks the memory lives a year, renewed by every connection.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The version of keys and records; newer data is refused.
const DATA_VERSION: i64 = 1;

/// How an ACL's refusal is known: of a command, of the choice of a database, and of what the script calls, up to
/// Redis 7.0 and from then on.
const NO_RIGHTS: [&str; 4] = [
    "NoPerm",
    "has no permissions to",
    "The user executing the script can't",
    "ACL failure in script",
];

/// One connection.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) connection: MultiplexedConnection,
    /// Ends with the last of these, as redis does it for connections that it makes.
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
    number: u64,
    pub(super) boot: Bytes,
}

/// The connection, whichever it is now.
pub(super) struct Link {
    pub(super) place: String,
    client: Client,
    tls: Option<Tls>,
    pub(super) names: Names,
    pub(super) swap: Script,
    pub(super) mailboxes: Mailboxes,
    /// One try at a time.
    connecting: tokio::sync::Mutex<()>,
    wire: Mutex<Option<Wire>>,
    made: AtomicU64,
    /// The store's clock less this machine's, in microseconds.
    offset: AtomicI64,
    /// Whether a task tries to connect for the mailboxes' sake.
    keeping: AtomicBool,
    /// Whether the server's settings were looked at and found fit.
    checked: AtomicBool,
    /// Whether it has ever done what is asked of it: what is refused from then on may be given again.
    proven: AtomicBool,
    /// When connecting failed last, and why.
    last_failure: Mutex<Option<(Instant, String)>>,
    pub(super) io: Io,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(server: &Server, info: ConnectionInfo, names: Names, script: &str, io: Io) -> Result<Arc<Self>> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(redis::ProtocolVersion::RESP3);
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        let client = Client::open(info).map_err(|e| Error::unusable(&server.place, e.to_string()))?;
        Ok(Arc::new(Self {
            place: server.place.clone(),
            client,
            tls: server.tls.clone(),
            names,
            swap: Script::new(script),
            mailboxes: Mailboxes::default(),
            connecting: tokio::sync::Mutex::default(),
            wire: Mutex::default(),
            made: AtomicU64::new(0),
            offset: AtomicI64::new(0),
            keeping: false.into(),
            checked: false.into(),
            proven: false.into(),
            last_failure: Mutex::default(),
            io,
        }))
    }

    fn wire(&self) -> MutexGuard<'_, Option<Wire>> {
        lock(&self.wire)
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        lock(&self.last_failure)
    }

    /// It did what was asked.
    pub(super) fn proves(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    pub(super) fn now(&self) -> Timestamp {
        let here = Clock::system().now().as_micros();
        Timestamp::from_micros(here.saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Notes what the store's clock said between these two moments.
    pub(super) fn heard_time(&self, asked: Timestamp, answered: Timestamp, store: Timestamp) {
        let here = i64::midpoint(asked.as_micros(), answered.as_micros());
        self.offset.store(store.as_micros() - here, Ordering::Relaxed);
    }

    /// The connection, made where there is none.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Wire> {
        if let Some(wire) = self.wire().clone() {
            return Ok(wire);
        }
        let (this, asked) = (Arc::clone(self), Instant::now());
        self.io
            .run(async move {
                let _one = this.connecting.lock().await;
                if let Some(wire) = this.wire().clone() {
                    return Ok(wire);
                }
                // Where a try failed while this one waited for it, that is its answer too: a server
                // that swallows everything costs all who ask one time-out, not one each.
                if let Some((at, why)) = this.last_failure().clone()
                    && at > asked
                {
                    return Err(Error::unreachable(&this.place, why));
                }
                let made = this.connect().await;
                if let Err(Error::Unreachable { source, .. }) = &made {
                    *this.last_failure() = Some((Instant::now(), source.to_string()));
                }
                let wire = made?;
                *this.wire() = Some(wire.clone());
                if wire.number > 1 {
                    tracing::info!(store = this.place, "connected again");
                    this.mailboxes.lost();
                }
                Ok(wire)
            })
            .await?
    }

    /// Notes a fault: this connection is used no more.
    fn fault(self: &Arc<Self>, number: u64, error: &dyn std::fmt::Display) {
        let mut current = self.wire();
        if current.as_ref().is_none_or(|now| now.number != number) {
            return;
        }
        *current = None;
        drop(current);
        tracing::warn!(store = self.place, %error, "the connection is dropped");
        self.keep();
    }

    /// Notes what a call on this connection met, and tells it.
    fn failed(self: &Arc<Self>, number: u64, error: &redis::RedisError) -> Error {
        self.fault(number, error);
        self.told(error)
    }

    /// As long as somebody reads a mailbox, a connection is made without being asked for.
    fn keep(self: &Arc<Self>) {
        if self.mailboxes.all().is_empty() || self.keeping.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = Arc::downgrade(self);
        self.io.handle().spawn(async move {
            let mut pause = Duration::from_millis(50);
            loop {
                let Some(link) = this.upgrade() else { return };
                if link.mailboxes.all().is_empty() || link.get().await.is_ok() {
                    link.keeping.store(false, Ordering::SeqCst);
                    // A fault that came in between found somebody keeping.
                    if link.wire().is_none() {
                        link.keep();
                    }
                    return;
                }
                drop(link);
                tokio::time::sleep(crate::io::jitter(pause)).await;
                pause = (pause * 2).min(PAUSE);
            }
        });
    }

    async fn connect(self: &Arc<Self>) -> Result<Wire> {
        let (pushes, pushed) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(limits::REDIS_ANSWER))
            .set_pipeline_buffer_size(1024)
            .set_write_backpressure_boundary(256 << 10)
            .set_push_sender(pushes);
        let (connection, driver) = match &self.tls {
            None => {
                let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
                let connection = made.map_err(|e| self.not_connected(&e))?;
                (connection, None)
            }
            Some(tls) => self.connect_securely(tls, config).await?,
        };
        let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
        let mut wire = Wire {
            connection,
            _driver: driver,
            number,
            boot: Bytes::new(),
        };
        wire.boot = self.greet(&mut wire.connection).await?;
        for mailbox in self.mailboxes.all() {
            let channel = self.names.channel(mailbox);
            wire.connection.subscribe(channel).await.map_err(|e| self.told(&e))?;
        }
        self.io
            .handle()
            .spawn(read_pushes(Arc::downgrade(self), number, pushed));
        Ok(wire)
    }

    /// The connection, and the task that reads and writes it.
    async fn connect_securely(
        &self,
        tls: &Tls,
        config: AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, Option<Arc<AbortOnDropHandle<()>>>)> {
        let info = self.client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(Error::unusable(&self.place, "it is no address of a network".into()));
        };
        let stream = tls.connect(host, *port).await;
        let stream = stream.map_err(|e| Error::unreachable(&self.place, e.to_string()))?;
        let connecting = MultiplexedConnection::new_with_config(info.redis_settings(), stream, config);
        let late = |_| Error::unreachable(&self.place, "connecting took too long");
        let made = timeout(CONNECT, connecting).await.map_err(late)?;
        let (connection, driver) = made.map_err(|e| self.not_connected(&e))?;
        let driver = AbortOnDropHandle::new(self.io.handle().spawn(driver));
        Ok((connection, Some(Arc::new(driver))))
    }

    /// Why there is no connection.
    fn not_connected(&self, error: &redis::RedisError) -> Error {
        let ended = error.is_connection_dropped() && !error.is_connection_refusal();
        let hint = match &self.tls {
            // One that says nothing has not refused us.
            Some(tls) if error.is_io_error() && !error.is_timeout() => tls.hint(),
            None if ended || error.kind() == redis::ErrorKind::Parse => {
                "if it speaks TLS at this port, use rediss://".into()
            }
            _ => return self.told(error),
        };
        match self.told(error) {
            Error::Unreachable { source, .. } => Error::unreachable(&self.place, format!("{source}: {hint}")),
            told => told,
        }
    }

    /// Looks at the server before anything is entrusted to it; answers which boot it is.
    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<Bytes> {
        let told = |e: redis::RedisError| self.told(&e);
        let info: String = cmd("INFO").arg("server").query_async(connection).await.map_err(told)?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let persistence: String = cmd("INFO")
            .arg("persistence")
            .query_async(connection)
            .await
            .map_err(told)?;
        if persistence.lines().any(|line| line.trim() == "loading:1") {
            return Err(Error::unreachable(&self.place, "it is loading its data"));
        }
        self.swap.load_async(connection).await.map_err(told)?;
        let asked = Clock::system().now();
        let (seconds, micros): (i64, i64) = cmd("TIME").query_async(connection).await.map_err(told)?;
        let store = Timestamp::from_micros(seconds * 1_000_000 + micros);
        self.heard_time(asked, Clock::system().now(), store);
        let meta = self.names.mark("meta");
        let shards = i64::from(self.names.shards);
        let (version, kept): (i64, i64) = redis::pipe()
            .atomic()
            .cmd("HSETNX")
            .arg(&meta)
            .arg("version")
            .arg(DATA_VERSION)
            .ignore()
            .cmd("HSETNX")
            .arg(&meta)
            .arg("shards")
            .arg(shards)
            .ignore()
            .cmd("PEXPIRE")
            .arg(&meta)
            .arg(millis(YEAR))
            .ignore()
            .cmd("SET")
            .arg(self.names.mark("epoch"))
            .arg(&uuid::Uuid::new_v4().as_bytes()[..])
            .arg("NX")
            .ignore()
            .cmd("PEXPIRE")
            .arg(self.names.mark("epoch"))
            .arg(millis(YEAR))
            .ignore()
            .cmd("HGET")
            .arg(&meta)
            .arg("version")
            .cmd("HGET")
            .arg(&meta)
            .arg("shards")
            .query_async(connection)
            .await
            .map_err(told)?;
        if version > DATA_VERSION {
            let problem =
                format!("its data has version {version}; this build reads up to {DATA_VERSION}: use a newer millhand");
            return Err(Error::unusable(&self.place, problem));
        }
        if kept != shards {
            let problem =
                format!("its data is spread over {kept} shards, and {shards} are asked for: set shards={kept}");
            return Err(Error::unusable(&self.place, problem));
        }
        if !self.checked.load(Ordering::SeqCst) {
            self.check_settings(connection).await?;
            self.checked.store(true, Ordering::SeqCst);
        }
        Ok(field("run_id").into())
    }

    /// A store that forgets by itself is refused; one that forgets when it ends is warned about.
    async fn check_settings(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        let asked = cmd("CONFIG").arg("GET").arg("*").query_async(connection).await;
        let settings: std::collections::HashMap<String, String> = match asked {
            Ok(settings) => settings,
            Err(error) => {
                tracing::debug!(store = self.place, %error, "its settings cannot be read; make sure of maxmemory-policy noeviction");
                return Ok(());
            }
        };
        let setting = |name: &str| settings.get(name).map(String::as_str).unwrap_or_default();
        if setting("maxmemory-policy") != "noeviction" && setting("maxmemory") != "0" {
            let problem = format!(
                "maxmemory-policy is {:?}, so it may drop leases and results when memory is short; \
                 set `maxmemory-policy noeviction` in redis.conf, or run: CONFIG SET maxmemory-policy noeviction",
                setting("maxmemory-policy")
            );
            return Err(Error::unusable(&self.place, problem));
        }
        if setting("appendonly") == "no" {
            tracing::warn!(
                store = self.place,
                "appendonly is \"no\": a crash of Redis forgets results and history of up to the last snapshot \
                 (no job is lost); set `appendonly yes` in redis.conf, or run: CONFIG SET appendonly yes"
            );
        }
        Ok(())
    }

    /// An error of the server in the words of the door.
    pub(super) fn told(&self, error: &redis::RedisError) -> Error {
        let text = error.to_string();
        if error.kind() == redis::ErrorKind::AuthenticationFailed
            || text.contains("WRONGPASS")
            || text.contains("NOAUTH")
        {
            return Error::unusable(&self.place, "it refuses the user or password in the URL".into());
        }
        let at_first = !self.proven.load(Ordering::Relaxed);
        if at_first && NO_RIGHTS.iter().any(|words| text.contains(words)) {
            let problem = format!("the user in the URL needs all rights on keys and channels mh:*: {text}");
            return Error::unusable(&self.place, problem);
        }
        // Nothing else that is said of a database is for good: the server may be busy.
        if at_first
            && text.contains("switch database")
            && (text.contains("out of range") || text.contains("cluster mode"))
        {
            return Error::unusable(&self.place, format!("the database in the URL cannot be used: {text}"));
        }
        if error.kind() == redis::ErrorKind::RESP3NotSupported {
            return Error::unusable(
                &self.place,
                "it is older than Redis 6, which Millhand needs at least".into(),
            );
        }
        if text.contains("OOM ") {
            let full =
                "it is full, and writes nothing until there is room: raise maxmemory, or wait until jobs are forgotten";
            return Error::unreachable(&self.place, full);
        }
        Error::unreachable(&self.place, text)
    }

    /// Sends what `build` says, and reads the answer as `T`.
    pub(super) async fn ask<T: FromRedisValue>(self: &Arc<Self>, build: redis::Pipeline) -> Result<T> {
        let mut wire = self.get().await?;
        match build.query_async::<T>(&mut wire.connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failed(wire.number, &error)),
        }
    }

    /// One command whose answer is taken apart by the caller.
    pub(super) async fn command(self: &Arc<Self>, command: redis::Cmd) -> Result<Value> {
        let mut wire = self.get().await?;
        match command.query_async::<Value>(&mut wire.connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failed(wire.number, &error)),
        }
    }

    /// Asks for the time and the memory's mark.
    pub(super) async fn epoch(self: &Arc<Self>) -> Result<Epoch> {
        let wire = self.get().await?;
        let mut ask = redis::pipe();
        ask.cmd("TIME").cmd("GET").arg(self.names.mark("epoch"));
        let (asked, since) = (Clock::system().now(), Instant::now());
        let ((seconds, micros), memory): ((i64, i64), Option<Vec<u8>>) = self.ask(ask).await?;
        // A slow answer says little of the clock.
        if since.elapsed() < Duration::from_millis(500) {
            let store = Timestamp::from_micros(seconds * 1_000_000 + micros);
            self.heard_time(asked, Clock::system().now(), store);
        }
        let memory = match memory {
            Some(memory) => memory,
            None => {
                // It was flushed: this is a new memory.
                let mut mark = redis::pipe();
                let key = self.names.mark("epoch");
                mark.cmd("SET")
                    .arg(&key)
                    .arg(&uuid::Uuid::new_v4().as_bytes()[..])
                    .arg("NX")
                    .arg("PX")
                    .arg(millis(YEAR))
                    .ignore();
                mark.cmd("GET").arg(&key);
                let (memory,): (Option<Vec<u8>>,) = self.ask(mark).await?;
                memory.unwrap_or_default()
            }
        };
        Ok(Epoch {
            memory: memory.into(),
            boot: wire.boot,
        })
    }

    /// Subscribes to a mailbox on the connection that is there.
    pub(super) async fn subscribe(self: &Arc<Self>, mailbox: millhand_proto::Mailbox) -> Result<()> {
        let mut wire = self.get().await?;
        let told = wire.connection.subscribe(self.names.channel(mailbox)).await;
        told.map_err(|error| self.failed(wire.number, &error))
    }

    pub(super) async fn unsubscribe(self: &Arc<Self>, mailbox: millhand_proto::Mailbox) {
        let wire = self.wire().clone();
        if let Some(mut wire) = wire
            && let Err(error) = wire.connection.unsubscribe(self.names.channel(mailbox)).await
        {
            self.failed(wire.number, &error);
        }
    }
}

/// Gives what the server pushes to the mailboxes, for as long as the connection lives: which it does
/// while anybody has it in hand, so this does not.
async fn read_pushes(link: std::sync::Weak<Link>, number: u64, mut pushed: mpsc::UnboundedReceiver<PushInfo>) {
    while let Some(push) = pushed.recv().await {
        let Some(link) = link.upgrade() else { return };
        match (push.kind, push.data.as_slice()) {
            (PushKind::Disconnection, _) => return link.fault(number, &"it was closed"),
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                if let Some(mailbox) = link.names.mailbox(channel) {
                    link.mailboxes.received(mailbox, payload);
                }
            }
            _ => {}
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}
