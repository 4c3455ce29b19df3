//! Where a run takes place: one SQLite file, or a namespace on RabbitMQ and Redis of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use millhand_broker::{Backend, BackendUrl};
use millhand_servers::{Proxy, Rabbit, Redis, Servers};
use serde_json::{Value, json};

/// The user of both servers, whose password must be seen nowhere.
const USER: &str = "mill";

/// Its password.
const PASSWORD: &str = "canary-of-a-password";

/// Starts both servers of a fleet.
pub(crate) fn servers() -> Arc<Servers> {
    let servers = Servers {
        rabbit: Rabbit::start(),
        redis: redis_like(&[]),
    };
    // Clients may log in a moment before this is done.
    servers.rabbit.ctl(&["await_startup"]);
    servers.rabbit.ctl(&["add_user", USER, PASSWORD]);
    servers
        .rabbit
        .ctl(&["set_permissions", "-p", "/", USER, ".*", ".*", ".*"]);
    Arc::new(servers)
}

/// A Redis with the user that all have.
pub(crate) fn redis_like(options: &[&str]) -> Redis {
    let user = ["--user", USER, "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"];
    Redis::with(&[&user, options].concat())
}

/// A back end by its URLs, which other processes open too.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    broker: String,
    store: String,
    /// The namespace, and the servers, of a fleet.
    fleet: Option<(String, Arc<Servers>)>,
}

impl Place {
    /// A file in a folder of its own below, whose disk may be harmed.
    pub(crate) fn sqlite(folder: &Path) -> Result<Self> {
        let disk = folder.join("disk");
        std::fs::create_dir(&disk)?;
        let url = format!("sqlite:{}", disk.join("jobs.db").display());
        Ok(Self {
            broker: url.clone(),
            store: url,
            fleet: None,
        })
    }

    pub(crate) fn fleet(namespace: &str, servers: Arc<Servers>) -> Self {
        let (rabbit, redis) = (servers.rabbit.port(), servers.redis.port());
        Self::at(namespace, servers, rabbit, redis)
    }

    fn at(namespace: &str, servers: Arc<Servers>, rabbit: u16, redis: u16) -> Self {
        let url = |scheme, port| format!("{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}?ns={namespace}");
        Self {
            broker: url("amqp", rabbit),
            store: url("redis", redis),
            fleet: Some((namespace.to_owned(), servers)),
        }
    }

    /// As another process was told.
    pub(crate) fn named(broker: String, store: String) -> Self {
        Self {
            broker,
            store,
            fleet: None,
        }
    }

    /// The same place, to which other wires lead.
    pub(crate) fn through(&self, to_rabbit: &Proxy, to_redis: &Proxy) -> Result<Self> {
        let (namespace, servers) = self.of_fleet()?;
        Ok(Self::at(
            namespace,
            Arc::clone(servers),
            to_rabbit.port(),
            to_redis.port(),
        ))
    }

    /// The same place, to which wires lead that can be harmed: to RabbitMQ, to Redis.
    pub(crate) fn wired(&self) -> Result<(Self, Proxy, Proxy)> {
        let (_, servers) = self.of_fleet()?;
        let (rabbit, redis) = (Proxy::amqp(servers.rabbit.port()), Proxy::resp(servers.redis.port()));
        Ok((self.through(&rabbit, &redis)?, rabbit, redis))
    }

    pub(crate) fn urls(&self) -> [&str; 2] {
        [&self.broker, &self.store]
    }

    /// What must be seen nowhere.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.fleet.iter().map(|_| PASSWORD.to_owned()).collect()
    }

    /// The file of a SQLite place.
    pub(crate) fn file(&self) -> Result<PathBuf> {
        let file = self.broker.strip_prefix("sqlite:");
        Ok(PathBuf::from(file.context("this place is no file")?))
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Backend>> {
        Ok(millhand_broker::open(&BackendUrl::of(
            &self.broker,
            Some(&self.store),
        )?)?)
    }

    fn of_fleet(&self) -> Result<&(String, Arc<Servers>)> {
        self.fleet.as_ref().context("this place has no servers")
    }

    pub(crate) fn namespace(&self) -> Result<&str> {
        Ok(&self.of_fleet()?.0)
    }

    /// Does something to both servers, on a thread where it may wait.
    pub(crate) async fn with_servers<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&Servers) -> T + Send + 'static,
    ) -> Result<T> {
        let servers = Arc::clone(&self.of_fleet()?.1);
        Ok(tokio::task::spawn_blocking(move || deed(&servers)).await?)
    }

    /// Does something to RabbitMQ.
    pub(crate) async fn with_rabbit<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&Rabbit) -> T + Send + 'static,
    ) -> Result<T> {
        self.with_servers(|servers| deed(&servers.rabbit)).await
    }

    /// Does something to Redis.
    pub(crate) async fn with_redis<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&Redis) -> T + Send + 'static,
    ) -> Result<T> {
        self.with_servers(|servers| deed(&servers.redis)).await
    }

    /// Messages in each queue that holds any, ready, delayed or in hands, by RabbitMQ itself; rows of a file.
    pub(crate) async fn messages(&self) -> Result<Vec<(String, u64)>> {
        if let Ok(file) = self.file() {
            let connection = rusqlite::Connection::open(file)?;
            let rows: i64 = connection.query_row("SELECT count(*) FROM copies", [], |row| row.get(0))?;
            let rows = u64::try_from(rows)?;
            return Ok((rows > 0).then(|| ("copies".to_owned(), rows)).into_iter().collect());
        }
        let listed = self
            .with_rabbit(|rabbit| rabbit.ctl(&["list_queues", "-q", "name", "messages"]))
            .await?;
        let ours = format!("mh.{}.", self.namespace()?);
        let lines = listed.lines().filter_map(|line| line.split_once('\t'));
        Ok(lines
            .filter(|(name, _)| name.starts_with(&ours))
            .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
            .filter(|(_, count)| *count > 0)
            .collect())
    }

    /// Messages, or rows, that will still come to a worker.
    pub(crate) async fn on_their_way(&self) -> Result<u64> {
        let messages = self.messages().await?;
        let aside = |name: &str| name.ends_with(".dead") || name.ends_with(".unreadable");
        Ok(messages
            .iter()
            .filter(|(name, _)| !aside(name))
            .map(|(_, count)| count)
            .sum())
    }

    /// What takes part, by its own words.
    pub(crate) fn versions(&self) -> Value {
        let mut versions = json!({ "millhand": env!("CARGO_PKG_VERSION") });
        match &self.fleet {
            None => versions["sqlite"] = rusqlite::version().into(),
            Some((_, servers)) => {
                versions["rabbitmq"] = servers.rabbit.ctl(&["version"]).trim().into();
                let info = servers.redis.command(&["INFO", "server"]);
                let line = |name: &str| {
                    info.text()
                        .lines()
                        .find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                versions["redis"] = line("redis_version:").into();
                if let Some(valkey) = line("valkey_version:") {
                    versions["valkey"] = valkey.into();
                }
            }
        }
        versions
    }
}
