//! Where a run takes place: one SQLite file, or a namespace on RabbitMQ and Redis of our own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use millhand_broker::{Backend, BackendUrl};
use millhand_servers::{Rabbit, Redis, Servers};

/// Starts both servers of a fleet.
pub(crate) fn servers() -> Arc<Servers> {
    Arc::new(Servers {
        rabbit: Rabbit::start(),
        redis: Redis::start(),
    })
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
    pub(crate) fn sqlite(folder: &Path) -> Self {
        let url = format!("sqlite:{}", folder.join("jobs.db").display());
        Self {
            broker: url.clone(),
            store: url,
            fleet: None,
        }
    }

    pub(crate) fn fleet(namespace: &str, servers: Arc<Servers>) -> Self {
        Self {
            broker: format!("{}?ns={namespace}", servers.rabbit.url()),
            store: format!("{}?ns={namespace}", servers.redis.url()),
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

    pub(crate) fn urls(&self) -> [&str; 2] {
        [&self.broker, &self.store]
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Backend>> {
        Ok(millhand_broker::open(&BackendUrl::of(
            &self.broker,
            Some(&self.store),
        )?)?)
    }

    /// Takes everything from the store.
    pub(crate) fn flush(&self) {
        if let Some((_, servers)) = &self.fleet {
            servers.redis.flush();
        }
    }

    /// Messages in each queue of a fleet that holds any, ready, delayed or in hands; by RabbitMQ itself.
    pub(crate) fn messages(&self) -> Vec<(String, u64)> {
        let Some((namespace, servers)) = &self.fleet else {
            return Vec::new();
        };
        let listed = servers.rabbit.ctl(&["list_queues", "-q", "name", "messages"]);
        let ours = format!("mh.{namespace}.");
        let lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines
            .filter(|(name, _)| name.starts_with(&ours))
            .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
