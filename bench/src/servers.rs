//! RabbitMQ and Redis: of this run's own, or what is there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use millhand_broker::{Backend, BackendUrl};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::running::left;

/// Millhand's namespace on them.
pub(crate) const NAMESPACE: &str = "bench";

/// Both servers.
pub(crate) struct Servers {
    broker: String,
    store: String,
    /// They end with this value.
    _own: Option<millhand_servers::Servers>,
}

impl Servers {
    pub(crate) async fn of(urls: Option<&(String, String)>) -> Result<Self> {
        if let Some((broker, store)) = urls.cloned() {
            return Ok(Self {
                broker,
                store,
                _own: None,
            });
        }
        eprintln!("starting RabbitMQ and Redis");
        let own = tokio::task::spawn_blocking(|| millhand_servers::Servers {
            rabbit: millhand_servers::Rabbit::start(),
            redis: millhand_servers::Redis::start(),
        });
        let own = own.await.context("servers of this run's own")?;
        Ok(Self {
            broker: own.rabbit.url(),
            store: own.redis.url(),
            _own: Some(own),
        })
    }

    /// Millhand on both, with nothing to do.
    pub(crate) async fn backend(&self) -> Result<Arc<dyn Backend>> {
        let (broker, store) = (with_namespace(&self.broker), with_namespace(&self.store));
        let backend = millhand_broker::open(&BackendUrl::of(&broker, Some(&store))?)?;
        let left = left(&backend).await?;
        ensure!(
            left == 0,
            "{left} parcels wait in the namespace {NAMESPACE}: purge it first"
        );
        Ok(backend)
    }

    pub(crate) async fn rabbit(&self) -> Result<Connection> {
        let properties = ConnectionProperties::default().with_connection_name("millhand-bench raw".into());
        Ok(Connection::connect(&self.broker, properties).await?)
    }

    pub(crate) async fn redis(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = redis::Client::open(self.store.as_str())?;
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Both with their versions.
    pub(crate) async fn versions(&self) -> Result<Vec<String>> {
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut self.redis().await?)
            .await?;
        let redis = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let uri: AMQPUri = self.broker.parse().map_err(anyhow::Error::msg)?;
        let address = (uri.authority.host, uri.authority.port);
        let rabbit = tokio::task::spawn_blocking(move || rabbit_version(address)).await??;
        Ok(vec![
            format!("RabbitMQ {rabbit}"),
            format!("Redis {}", redis.context("Redis tells no version")?),
        ])
    }
}

fn with_namespace(url: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}ns={NAMESPACE}")
}

/// RabbitMQ's version from its greeting, which lapin keeps to itself: a field named `version`, a long
/// string with four bytes of length.
fn rabbit_version(address: (String, u16)) -> Result<String> {
    const FIELD: &[u8] = b"\x07versionS";
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let [.., a, b, c, d] = head;
    let mut greeting = Vec::new();
    stream
        .take(u32::from_be_bytes([a, b, c, d]).into())
        .read_to_end(&mut greeting)?;
    let at = greeting.windows(FIELD.len()).position(|part| part == FIELD);
    let text = at.and_then(|at| greeting.get(at + FIELD.len()..));
    let (length, text) = text.and_then(|text| text.split_first_chunk()).context("no version")?;
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    let version = text.get(..length).context("a version that is cut")?;
    Ok(String::from_utf8_lossy(version).into_owned())
}
