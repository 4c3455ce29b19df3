//! Redis as the store: it remembers.

mod keys;
mod link;
mod mail;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Mailbox, Timestamp};
use redis::{ConnectionInfo, IntoConnectionInfo, Value};
use tokio::sync::mpsc;

use self::keys::Names;
use self::link::{Link, millis};
use crate::backend::{BoxFuture, Mail};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::pair::store::{Effect, Epoch, Expected, Found, Key, Read, Store, Swap, Swapped};
use crate::tls::Tls;
use crate::url::{Server, malformed};

/// Bytes of one script call, unless a single swap has more.
const CALL_BYTES: usize = 1 << 20;

/// A Redis server, in one namespace.
#[derive(Debug)]
pub(crate) struct Redis {
    link: Arc<Link>,
}

impl Redis {
    /// The URL is taken apart, nothing is connected; that happens on `io`.
    pub(crate) fn new(server: &Server, namespace: &str, shards: u16, io: Io) -> Result<Arc<Self>> {
        let unusable = |problem| Error::unusable(&server.place, problem);
        let info = parse(&server.url).map_err(unusable)?;
        server.tls.as_ref().map_or(Ok(()), Tls::check).map_err(unusable)?;
        let names = Names::new(namespace, shards);
        let link = Link::new(server, info, names, include_str!("redis/swap.lua"), io)?;
        Ok(Arc::new(Self { link }))
    }

    async fn swap(&self, swaps: Vec<Swap>) -> Result<Vec<Swapped>> {
        let names = &self.link.names;
        let mut calls: Vec<Call> = Vec::new();
        for (at, swap) in swaps.iter().enumerate() {
            let shard = swap.shard(names);
            let bytes = swap.bytes();
            let call = calls
                .iter_mut()
                .rev()
                .find(|call| call.shard == shard && call.bytes + bytes <= CALL_BYTES);
            match call {
                Some(call) => {
                    call.bytes += bytes;
                    call.swaps.push(at);
                }
                None => calls.push(Call {
                    shard,
                    bytes,
                    swaps: vec![at],
                }),
            }
        }
        let mut answers: Vec<Option<Swapped>> = vec![None; swaps.len()];
        let asked = calls.iter().map(|call| {
            let command = self.command(call.swaps.iter().map(|at| &swaps[*at]), call.swaps.len());
            self.link.command(command)
        });
        for (call, answer) in calls.iter().zip(futures_util::future::join_all(asked).await) {
            let Value::Array(answer) = answer? else {
                return Err(self.strange());
            };
            self.link.proves();
            for (at, value) in call.swaps.iter().zip(answer) {
                answers[*at] = Some(match value {
                    Value::Int(_) => Swapped::Done,
                    Value::Array(current) => Swapped::Current(current.into_iter().map(bulk).collect()),
                    _ => return Err(self.strange()),
                });
            }
        }
        answers.into_iter().map(|a| a.ok_or_else(|| self.strange())).collect()
    }

    /// Keys come before arguments, both in the order in which the script takes them.
    fn command<'s>(&self, swaps: impl Iterator<Item = &'s Swap> + Clone, count: usize) -> redis::Cmd {
        let names = &self.link.names;
        let keys = || swaps.clone().flat_map(Swap::keys);
        let mut command = redis::Cmd::with_capacity(64 * count, 1024 * count);
        command
            .arg("EVALSHA")
            .arg(self.link.swap.get_hash())
            .arg(keys().count());
        for key in keys() {
            command.arg(names.key(key));
        }
        command.arg(count);
        for swap in swaps {
            command.arg(swap.writes.len());
            for write in &swap.writes {
                let expected: &[u8] = match &write.expected {
                    Expected::Absent => b"",
                    Expected::Fresh => b"fresh",
                    Expected::Version(version) => version,
                };
                let bytes = write.bytes.as_deref().unwrap_or_default();
                command.arg(expected).arg(millis(write.keep)).arg(bytes);
            }
            command.arg(swap.effects.len());
            for effect in &swap.effects {
                self.effect(&mut command, effect);
            }
        }
        command
    }

    /// What, bytes, how long it is kept, and a field: always four.
    fn effect(&self, command: &mut redis::Cmd, effect: &Effect) {
        let none: &[u8] = b"";
        let mut say = |what: &str, bytes: &[u8], keep: Duration, field: &[u8]| {
            command.arg(what).arg(bytes).arg(millis(keep)).arg(field);
        };
        match effect {
            Effect::Put(_, bytes, keep) => say("put", bytes, *keep, none),
            Effect::Delete(_) => say("del", none, Duration::ZERO, none),
            Effect::Append(_, bytes, keep) => say("app", bytes, *keep, b"0"),
            Effect::AppendCapped(_, bytes, keep, most) => say("app", bytes, *keep, most.to_string().as_bytes()),
            Effect::Field(_, field, bytes, keep) => say("fld", bytes, *keep, field.as_bytes()),
            Effect::Unfield(_, field) => say("unf", none, Duration::ZERO, field.as_bytes()),
            Effect::Add(_, field, number, keep) => say("add", number.to_string().as_bytes(), *keep, field.as_bytes()),
            Effect::Post(mailbox, mail) => {
                let (kind, id) = mail::encode(*mail);
                let channel = self.link.names.channel(*mailbox);
                command.arg("post").arg(&id[..]).arg(kind).arg(channel);
            }
        }
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>> {
        let names = &self.link.names;
        // All single keys of a shard are one command.
        let mut gets: Vec<(u16, Vec<usize>)> = Vec::new();
        let mut ask = redis::pipe();
        let mut others = Vec::new();
        for (at, read) in reads.iter().enumerate() {
            if let Read::Get(key) = read {
                let shard = names.shard(key);
                match gets.iter_mut().find(|(other, _)| *other == shard) {
                    Some((_, places)) => places.push(at),
                    None => gets.push((shard, vec![at])),
                }
            }
        }
        for (_, places) in &gets {
            let keys: Vec<String> = places
                .iter()
                .filter_map(|at| match &reads[*at] {
                    Read::Get(key) => Some(names.key(key)),
                    _ => None,
                })
                .collect();
            ask.cmd("MGET").arg(keys);
        }
        for (at, read) in reads.iter().enumerate() {
            match read {
                Read::Get(_) => continue,
                Read::Tail { key, skip, count } => {
                    let (from, to) = (skip + count, skip + 1);
                    ask.cmd("LRANGE")
                        .arg(names.key(key))
                        .arg(format!("-{from}"))
                        .arg(format!("-{to}"));
                }
                Read::Fields(key) => {
                    ask.cmd("HGETALL").arg(names.key(key));
                }
            }
            others.push(at);
        }
        let mut found: Vec<Option<Found>> = vec![None; reads.len()];
        if gets.is_empty() && others.is_empty() {
            return Ok(Vec::new());
        }
        let answers: Vec<Value> = self.link.ask(ask).await?;
        self.link.proves();
        let mut answers = answers.into_iter();
        for (_, places) in gets {
            let Some(Value::Array(values)) = answers.next() else {
                return Err(self.strange());
            };
            for (at, value) in places.into_iter().zip(values) {
                found[at] = Some(Found::Bytes(bulk(value)));
            }
        }
        for (at, value) in others.into_iter().zip(answers) {
            found[at] = Some(match value {
                Value::Array(list) => Found::List(list.into_iter().filter_map(bulk).collect()),
                Value::Map(fields) => Found::Fields(
                    fields
                        .into_iter()
                        .filter_map(|(field, value)| {
                            let field = String::from_utf8(bulk(field)?.to_vec()).ok()?;
                            Some((field, bulk(value)?))
                        })
                        .collect(),
                ),
                _ => return Err(self.strange()),
            });
        }
        found.into_iter().map(|f| f.ok_or_else(|| self.strange())).collect()
    }

    /// An answer of a kind that no server of ours gives.
    fn strange(&self) -> Error {
        Error::unreachable(&self.link.place, "it gave an answer of an unexpected kind")
    }
}

/// Takes a URL apart.
pub(crate) fn parse(url: &str) -> std::result::Result<ConnectionInfo, String> {
    // redis is built without TLS and does not know the scheme; see `crate::tls`.
    let plain = url.replacen("rediss://", "redis://", 1);
    let info = IntoConnectionInfo::into_connection_info(plain);
    info.map_err(|_| malformed(url, "redis://USER:PASSWORD@HOST:PORT/DB"))
}

/// Swaps that go in one script call.
struct Call {
    shard: u16,
    bytes: usize,
    swaps: Vec<usize>,
}

impl Swap {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let written = self.writes.iter().map(|write| &write.key);
        written.chain(self.effects.iter().filter_map(Effect::key))
    }

    fn shard(&self, names: &Names) -> u16 {
        self.keys().next().map_or(0, |key| names.shard(key))
    }

    /// What it adds to a call, about.
    fn bytes(&self) -> usize {
        let writes = self.writes.iter().map(|w| w.bytes.as_ref().map_or(0, Vec::len) + 100);
        let effects = self.effects.iter().map(|effect| effect.bytes() + 100);
        writes.chain(effects).sum()
    }
}

impl Effect {
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Put(key, ..)
            | Self::Delete(key)
            | Self::Append(key, ..)
            | Self::AppendCapped(key, ..)
            | Self::Field(key, ..)
            | Self::Unfield(key, ..)
            | Self::Add(key, ..) => Some(key),
            Self::Post(..) => None,
        }
    }
}

fn bulk(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

impl Store for Redis {
    fn place(&self) -> String {
        self.link.place.clone()
    }

    fn now(&self) -> Timestamp {
        self.link.now()
    }

    fn swap(&self, swaps: Vec<Swap>) -> BoxFuture<'_, Result<Vec<Swapped>>> {
        Box::pin(Self::swap(self, swaps))
    }

    fn read(&self, reads: Vec<Read>) -> BoxFuture<'_, Result<Vec<Found>>> {
        Box::pin(Self::read(self, reads))
    }

    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>> {
        Box::pin(async move {
            let (mails, reader) = self.link.mailboxes.open(mailbox);
            if let Err(error) = self.link.subscribe(mailbox).await {
                self.link.mailboxes.close(mailbox);
                return Err(error);
            }
            let link = Arc::downgrade(&self.link);
            self.link.io.handle().spawn(async move {
                reader.closed().await;
                if let Some(link) = link.upgrade()
                    && link.mailboxes.close(mailbox)
                {
                    link.unsubscribe(mailbox).await;
                }
            });
            Ok(mails)
        })
    }

    fn pulse(&self) -> BoxFuture<'_, Result<Epoch>> {
        Box::pin(self.link.epoch())
    }

    fn connections(&self) -> u64 {
        self.link.made()
    }

    fn shards(&self) -> u16 {
        self.link.names.shards
    }
}
