//! The names of keys and channels: `mh:{<namespace>.<shard>}:…`. Frozen; a golden file keeps them.

use std::fmt::Write;

use millhand_proto::{Mailbox, RecordKey};

use crate::pair::store::{EVERYBODY, Key, shard_of};

/// Names in one namespace.
#[derive(Clone, Debug)]
pub(super) struct Names {
    namespace: String,
    pub(super) shards: u16,
}

impl Names {
    pub(super) fn new(namespace: &str, shards: u16) -> Self {
        Self {
            namespace: namespace.to_owned(),
            shards: shards.max(1),
        }
    }

    /// Where this memory's own marks lie.
    pub(super) fn mark(&self, what: &str) -> String {
        format!("mh:{{{}.0}}:{what}", self.namespace)
    }

    pub(super) fn shard(&self, key: &Key) -> u16 {
        match key {
            Key::Record(RecordKey::Parcel(id) | RecordKey::Own(id)) => shard_of(id.parcel_key(), self.shards),
            Key::Result(id) | Key::Delayed(id) | Key::Dead(id) | Key::Log(id) => shard_of(id.parcel_key(), self.shards),
            Key::Succeeded(shard, ..) | Key::Index(shard, _) | Key::Accepted(shard, ..) => *shard,
            _ => 0,
        }
    }

    pub(super) fn key(&self, key: &Key) -> String {
        let mut name = String::with_capacity(64);
        let _ = write!(name, "mh:{{{}.{}}}:", self.namespace, self.shard(key));
        let _ = match key {
            Key::Record(RecordKey::Parcel(id)) => write!(name, "p:{id}"),
            Key::Record(RecordKey::Own(id)) => write!(name, "o:{id}"),
            Key::Result(id) => write!(name, "v:{id}"),
            Key::Delayed(id) => write!(name, "b:{id}"),
            Key::Dead(id) => write!(name, "d:{id}"),
            Key::Log(id) => write!(name, "l:{id}"),
            Key::Succeeded(_, task, bucket) => write!(name, "s:{task}:{bucket}"),
            Key::Index(_, state) => write!(name, "i:{state}"),
            Key::Accepted(_, queue, bucket) => write!(name, "a:{queue}:{bucket}"),
            Key::Lease(worker) => write!(name, "w:{worker}"),
            Key::Workers => write!(name, "workers"),
            Key::Queues => write!(name, "queues"),
            Key::Tasks => write!(name, "tasks"),
            Key::Control => write!(name, "control"),
            Key::Minute(minute) => write!(name, "n:{minute}"),
            Key::Flushed(token, piece) => write!(name, "f:{token:016x}:{piece}"),
            Key::Empty => write!(name, "empty"),
            Key::Unreadable => write!(name, "unreadable"),
            Key::Caretaker => write!(name, "caretaker"),
        };
        name
    }

    pub(super) fn channel(&self, mailbox: Mailbox) -> String {
        if mailbox == EVERYBODY {
            format!("mh:{}:everybody", self.namespace)
        } else {
            format!("mh:{}:m:{mailbox}", self.namespace)
        }
    }

    pub(super) fn mailbox(&self, channel: &[u8]) -> Option<Mailbox> {
        let rest = std::str::from_utf8(channel).ok()?.strip_prefix("mh:")?;
        match rest.strip_prefix(self.namespace.as_str())? {
            ":everybody" => Some(EVERYBODY),
            box_name => Mailbox::parse(box_name.strip_prefix(":m:")?),
        }
    }
}
