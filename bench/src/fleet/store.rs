//! What Redis says of itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use millhand_proto::JobId;
use redis::aio::MultiplexedConnection;

use crate::servers::NAMESPACE;

/// Calls of each command so far, those that scripts make too.
pub(super) struct Commands(BTreeMap<String, usize>);

impl Commands {
    pub(super) async fn count(redis: &mut MultiplexedConnection) -> Result<Self> {
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await?;
        let counts = info.lines().filter_map(|line| {
            let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let calls = stats.strip_prefix("calls=")?.split(',').next()?;
            Some((name.to_owned(), calls.parse().ok()?))
        });
        Ok(Self(counts.collect()))
    }

    /// What was called between two counts, most often first.
    pub(super) fn since(&self, earlier: &Self) -> Vec<(String, usize)> {
        let mut calls: Vec<(String, usize)> = self
            .0
            .iter()
            .map(|(name, calls)| {
                let before = earlier.0.get(name).copied().unwrap_or(0);
                // The earlier count is a command too, and is counted after it answered.
                let own = usize::from(name == "info");
                (name.clone(), calls.saturating_sub(before + own))
            })
            .filter(|(_, calls)| *calls > 0)
            .collect();
        calls.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
        calls
    }
}

/// Bytes that Redis uses.
pub(super) async fn used(redis: &mut MultiplexedConnection) -> Result<usize> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(redis).await?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.context("Redis does not tell used_memory")?.trim().parse()?)
}

/// Bytes of a job's record with its key (`broker/src/redis/keys.rs`).
pub(super) async fn record(redis: &mut MultiplexedConnection, id: JobId) -> Result<usize> {
    let key = format!("mh:{{{NAMESPACE}.0}}:p:{}", id.parcel_key());
    let bytes: Option<usize> = redis::cmd("MEMORY").arg("USAGE").arg(&key).query_async(redis).await?;
    bytes.with_context(|| format!("there is no {key} in Redis"))
}
