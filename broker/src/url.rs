//! Back ends by name: `sqlite:millhand.db`, `memory:`, or `amqp://…` together with `redis://…`; with
//! TLS, `amqps://…` and `rediss://…`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use millhand_proto::Namespace;

use crate::backend::Backend;
use crate::error::Result;
use crate::io::Io;
use crate::memory::Memory;
use crate::pair::{self, Pair};
use crate::rabbitmq::{self, RabbitMq};
use crate::redis::{self, Redis};
use crate::sqlite::Sqlite;
use crate::tls::Tls;

/// A URL that names no back end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} names no back end: {problem}")]
pub struct UrlError {
    shown: String,
    problem: String,
    of_store: bool,
}

impl UrlError {
    /// What is wrong, without the URL.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Whether the store's URL is wrong, not the broker's.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        self.of_store
    }
}

/// Where jobs and records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendUrl {
    /// In this process only.
    Memory,
    /// In one file.
    Sqlite(PathBuf),
    /// RabbitMQ carries, Redis remembers.
    Pair(Box<PairUrl>),
}

/// Two servers and a namespace on them.
#[derive(Clone, PartialEq, Eq)]
pub struct PairUrl {
    broker: Server,
    store: Server,
    namespace: Namespace,
    shards: u16,
}

impl PairUrl {
    /// The namespace: the part of both servers that is used. `?ns=` in the URLs; `main` where they
    /// do not say.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl fmt::Debug for PairUrl {
    /// Without users and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broker, store, .. } = self;
        write!(f, "{} + {} ({})", broker.place, store.place, self.namespace)
    }
}

/// A server's URL without what is Millhand's own, and what may be shown of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) place: String,
    own: Vec<(String, String)>,
    /// Of all its parameters.
    names: Vec<String>,
    /// For `amqps://` and `rediss://`.
    pub(crate) tls: Option<Tls>,
}

/// What may be wrong with a password in a URL, in an error.
const ESCAPES: &str = "in a password, @ is written %40, / %2F, ? %3F, # %23 and % %25";

/// What is wrong with a URL that a client library cannot take apart, as far as that can be told without
/// showing any of it: what stands where the port should may be a password.
pub(crate) fn malformed(url: &str, form: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (address, parameters) = rest
        .split_once('?')
        .map_or((rest, false), |(address, _)| (address, true));
    let authority = address.split('/').next().unwrap_or_default();
    let host = authority.rsplit(['@', ']']).next().unwrap_or_default();
    let why = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_err() => "what follows the host's colon is no port",
        _ if parameters => "heartbeat, connection_timeout, channel_max and frame_max must be numbers",
        _ => ESCAPES,
    };
    format!("it is no {form}: {why}")
}

/// Whether a % stands in the user or password that no two hexadecimal digits follow.
fn breaks_off(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let escapes = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    !user.split('%').skip(1).all(escapes)
}

/// The parameters that Millhand takes off before the client libraries see the URL.
const OWN: &[&str] = &["ns", "shards", "ca", "cert", "key"];
/// The parameters of TLS.
const OF_TLS: &[&str] = &["ca", "cert", "key"];
/// The parameters of the broker's URL; those from `heartbeat` on are lapin's.
const OF_BROKER: &[&str] = &[
    "ns",
    "ca",
    "cert",
    "key",
    "heartbeat",
    "connection_timeout",
    "channel_max",
    "frame_max",
];
/// The parameters of the store's URL.
const OF_STORE: &[&str] = &["ns", "shards", "ca", "cert", "key"];

impl Server {
    /// Takes off what the client libraries do not know.
    pub(crate) fn of(url: &str) -> Self {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut own = Vec::new();
        let (mut theirs, mut names) = (Vec::new(), Vec::new());
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            names.push(name.to_owned());
            if OWN.contains(&name) {
                own.push((name.to_owned(), value.to_owned()));
            } else {
                theirs.push(part);
            }
        }
        let (scheme, rest) = address.split_once("://").unwrap_or((address, ""));
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let mark = if theirs.is_empty() { "" } else { "?" };
        Self {
            url: format!("{address}{mark}{}", theirs.join("&")),
            place: format!("{scheme}://{host}"),
            own,
            names,
            tls: None,
        }
    }

    /// Reads what the URL says of TLS; `Some` where it asks for it.
    fn tls(&self) -> std::result::Result<Option<Tls>, String> {
        let scheme = scheme(&self.url);
        if scheme == kind(&self.url) {
            return match OF_TLS.iter().find(|name| self.own(name).is_some()) {
                Some(name) => Err(format!("{name} is for TLS: the URL must begin with {scheme}s://")),
                None => Ok(None),
            };
        }
        if self.url.contains('#') {
            return Err("nothing may follow a #; the server's certificate is always checked".into());
        }
        let file = |name| self.own(name).map(|value| path(name, value)).transpose();
        let identity = match (file("cert")?, file("key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("cert and key name a certificate and its key: set both, or none".into()),
        };
        let ca = file("ca")?;
        Ok(Some(Tls { ca, identity }))
    }

    fn own(&self, name: &str) -> Option<&str> {
        self.own
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A file's name as a parameter has it.
fn path(name: &str, value: &str) -> std::result::Result<PathBuf, String> {
    let text = percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| format!("{name}={value:?} is no UTF-8 text"))?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{name}={value:?} names no file"));
    }
    Ok(text.as_ref().into())
}

/// What may be shown of a URL: it may carry a password, so of one with an authority the scheme, and
/// nothing of one that is written wrong.
fn shown(text: &str) -> String {
    let plain = |scheme: &str| scheme.len() < 20 && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    match text.split_once("://") {
        Some((scheme, _)) if plain(scheme) => format!("{scheme}://…"),
        None if !text.contains('@') => text.chars().take(200).collect(),
        _ => "…".into(),
    }
}

fn scheme(text: &str) -> &str {
    text.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// The scheme of the same server without TLS.
fn kind(text: &str) -> &str {
    match scheme(text) {
        "amqps" => "amqp",
        "rediss" => "redis",
        other => other,
    }
}

impl BackendUrl {
    /// The back end that a broker and a store name together. One name is enough where one place is
    /// both.
    ///
    /// # Errors
    /// When they name none, or do not fit together.
    pub fn of(broker: &str, store: Option<&str>) -> std::result::Result<Self, UrlError> {
        let wrong = |text: &str, of_store, problem: &str| UrlError {
            shown: shown(text),
            problem: problem.to_owned(),
            of_store,
        };
        match (kind(broker), store.map(|store| (kind(store), store))) {
            ("amqp", Some(("redis", store))) => Self::pair(broker, store),
            ("amqp", None) => Err(wrong(broker, false, "RabbitMQ needs a store beside it: redis://HOST")),
            ("amqp", Some((_, store))) => Err(wrong(store, true, "the store beside RabbitMQ must be redis://HOST")),
            ("redis", _) => Err(wrong(
                broker,
                false,
                "Redis remembers, it does not carry: the broker must be amqp://HOST, and this its store",
            )),
            ("sqlite" | "memory", Some(("redis", store))) => Err(wrong(
                store,
                true,
                "Redis is the store of RabbitMQ: the broker must be amqp://HOST",
            )),
            (_, Some(("redis", _))) => Err(wrong(
                broker,
                false,
                "with a store at redis://HOST it must be amqp://HOST",
            )),
            (_, None) => broker.parse(),
            (_, Some((_, store))) => {
                let url: Self = broker.parse()?;
                if store.parse::<Self>().ok() == Some(url.clone()) {
                    Ok(url)
                } else {
                    Err(wrong(store, true, "it must be the same as the broker, or not be set"))
                }
            }
        }
    }

    fn pair(broker: &str, store: &str) -> std::result::Result<Self, UrlError> {
        let (mut at_broker, mut at_store) = (Server::of(broker), Server::of(store));
        let wrong = |of_store, problem: String| UrlError {
            shown: shown(if of_store { store } else { broker }),
            problem,
            of_store,
        };
        for (server, of_store) in [(&mut at_broker, false), (&mut at_store, true)] {
            if server.place.ends_with("://") {
                return Err(wrong(of_store, "it names no host".into()));
            }
            // Else something of it would be shown as its scheme.
            let begin = format!("{}://", scheme(if of_store { store } else { broker }));
            if !server.place.starts_with(&begin) {
                return Err(wrong(of_store, format!("it must begin with {begin}")));
            }
            // What stands before it may be the rest of a password, and would be shown as something else.
            let after = |url: &str| {
                url.split_once("://")
                    .and_then(|(_, rest)| rest.split_once(['/', '?', '#']).map(|(_, after)| after.contains('@')))
            };
            if after(if of_store { store } else { broker }) == Some(true) {
                return Err(wrong(of_store, format!("an @ stands after its host; {ESCAPES}")));
            }
            // Read as it stands, it would be another password.
            if breaks_off(if of_store { store } else { broker }) {
                return Err(wrong(of_store, format!("a % begins no escape; {ESCAPES}")));
            }
            let known = if of_store { OF_STORE } else { OF_BROKER };
            if let Some(name) = server.names.iter().find(|name| !known.contains(&name.as_str())) {
                let name = name.chars().take(40).collect::<String>();
                let known = known.join(", ");
                return Err(wrong(
                    of_store,
                    format!("there is no parameter {name:?}; there are {known}"),
                ));
            }
            server.tls = server.tls().map_err(|problem| wrong(of_store, problem))?;
        }
        rabbitmq::parse(&at_broker.url).map_err(|problem| wrong(false, problem))?;
        redis::parse(&at_store.url).map_err(|problem| wrong(true, problem))?;
        let namespace = match (at_broker.own("ns"), at_store.own("ns")) {
            (Some(a), Some(b)) if a != b => {
                let problem = format!("its namespace is {b:?}, and the broker's is {a:?}: ns must be the same in both");
                return Err(wrong(true, problem));
            }
            (a, b) => a.or(b).unwrap_or("main"),
        };
        let namespace = Namespace::new(namespace).map_err(|e| wrong(at_broker.own("ns").is_none(), e.to_string()))?;
        let shards = at_store.own("shards").unwrap_or("1");
        let shards = shards.parse().ok().filter(|n| (1..=1024).contains(n));
        let shards = shards.ok_or_else(|| wrong(true, "shards is a number from 1 to 1024".into()))?;
        Ok(Self::Pair(Box::new(PairUrl {
            broker: at_broker,
            store: at_store,
            namespace,
            shards,
        })))
    }
}

impl std::str::FromStr for BackendUrl {
    type Err = UrlError;

    /// A place that is both broker and store.
    fn from_str(text: &str) -> std::result::Result<Self, UrlError> {
        let err = |problem: &str| UrlError {
            shown: shown(text),
            problem: problem.to_owned(),
            of_store: false,
        };
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("memory", _)) => Err(err("nothing may follow memory:")),
            Some(("sqlite", path)) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                match path {
                    "" => Err(err("a file must follow sqlite:")),
                    ":memory:" => Err(err("use memory: for jobs that no file holds")),
                    _ if path.contains('\0') => Err(err("a file name holds no NUL")),
                    // It may hold a password, and a file's name is shown.
                    _ if path.contains("://") => Err(err("a URL is no name of a file")),
                    _ => Ok(Self::Sqlite(path.into())),
                }
            }
            Some(("amqp" | "amqps" | "redis" | "rediss", _)) => Self::of(text, None),
            _ => Err(err(
                "it must be sqlite:FILE or memory:, or amqp://HOST with a store at redis://HOST",
            )),
        }
    }
}

/// Opens a back end. A SQLite file is made when there is none; servers are connected to when they
/// are used first.
///
/// # Errors
/// When the file cannot be opened, or holds something else; when a server's URL cannot be used, or
/// the certificates that it names.
pub fn open(url: &BackendUrl) -> Result<Arc<dyn Backend>> {
    Ok(match url {
        BackendUrl::Memory => Memory::open()?,
        BackendUrl::Sqlite(path) => Sqlite::open(path)?,
        BackendUrl::Pair(url) => {
            let PairUrl {
                broker,
                store,
                namespace,
                shards,
            } = &**url;
            // One thread for both: what is written of a job goes from one to the other.
            let io = Io::start("millhand-io")?;
            let queue = RabbitMq::new(broker, namespace.as_str(), io.clone())?;
            let store = Redis::new(store, namespace.as_str(), *shards, io.clone())?;
            Arc::new(pair::Shared(Pair::new(queue, store, io)))
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls_name_a_back_end_or_say_what_is_wrong_without_secrets() {
        assert_eq!("memory:".parse(), Ok(BackendUrl::Memory));
        assert_eq!("sqlite:a/b.db".parse(), Ok(BackendUrl::Sqlite("a/b.db".into())));
        assert_eq!("sqlite:///a/b.db".parse(), Ok(BackendUrl::Sqlite("/a/b.db".into())));
        for bad in [
            "",
            "a.db",
            "sqlite:",
            "memory:x",
            "http://x",
            "sqlite::memory:",
            "sqlite:amqp://x",
            "amqp://x",
            "redis://x",
        ] {
            assert!(bad.parse::<BackendUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_url_says_of_tls_is_taken_off_it() {
        let (broker, store) = (
            "amqps://ana:canary@a/?ca=/a%20b.pem&heartbeat=5",
            "rediss://:canary@b/1?cert=/c.pem&key=/c.key",
        );
        let Ok(BackendUrl::Pair(url)) = BackendUrl::of(broker, Some(store)) else {
            panic!("two servers")
        };
        assert_eq!(url.broker.url, "amqps://ana:canary@a/?heartbeat=5");
        assert_eq!(url.store.url, "rediss://:canary@b/1");
        let (broker, store) = (url.broker.tls.clone().unwrap(), url.store.tls.clone().unwrap());
        assert_eq!((broker.ca, broker.identity), (Some("/a b.pem".into()), None));
        let identity = Some(("/c.pem".into(), "/c.key".into()));
        assert_eq!((store.ca, store.identity), (None, identity));
        assert_eq!(format!("{url:?}"), "amqps://a + rediss://b (main)");
        let mixed = BackendUrl::of("amqp://a", Some("rediss://b"));
        assert!(matches!(mixed, Ok(BackendUrl::Pair(url)) if url.broker.tls.is_none()));
    }

    #[test]
    fn two_servers_are_one_back_end_in_one_namespace() {
        let both = |broker: &str, store: &str| BackendUrl::of(broker, Some(store));
        let Ok(BackendUrl::Pair(url)) = both(
            "amqp://ana:canary@a:5672/%2f?ns=blue&heartbeat=5",
            "redis://:canary@b/1",
        ) else {
            panic!("two servers")
        };
        assert_eq!(url.namespace().as_str(), "blue");
        assert_eq!(url.broker.url, "amqp://ana:canary@a:5672/%2f?heartbeat=5");
        assert_eq!(url.store.url, "redis://:canary@b/1");
        assert_eq!(format!("{url:?}"), "amqp://a:5672 + redis://b (blue)");
        for (broker, store, of_store) in [
            ("amqp://u:canary@a?ns=x", "redis://u:canary@b?ns=y", true),
            ("amqp://u:canary@a?ns=Bad", "redis://b", false),
            ("amqp:/u:canary@b/amqp://a", "redis://b", false),
            ("amqp://a", "redis:/u:canary@b/redis://b", true),
            ("amqp://u:canary@a", "redis://b?shards=0", true),
            ("amqp://u:canary@a", "sqlite:x.db", true),
            ("sqlite:x.db", "redis://u:canary@b", true),
            ("sqlite:x.db", "sqlite:y.db", true),
            ("redis://u:canary@b", "redis://b", false),
            ("amqp://u:canary@b?ca=/ca.pem", "redis://b", false),
            ("amqps://u:canary@b?cert=/a.pem", "redis://b", false),
            ("amqps://u:canary@b?ca=", "redis://b", false),
            ("amqp://b", "rediss://u:canary@b?key=/a.key", true),
            ("amqp://b", "rediss://u:canary@b#insecure", true),
            ("amqp://b", "redis://u:canary@b?cert=/a.pem&key=/a.key", true),
            ("rediss://u:canary@b", "redis://b", false),
            ("sqlite:x.db", "rediss://u:canary@b", true),
            ("amqp://", "redis://b", false),
            ("http://u:canary@a", "redis://b", false),
            ("amqp://u:canary@a?shards=4", "redis://b", false),
            ("amqp://u:canary@a", "redis://b?shard=64", true),
            ("amqp://u:1/canary@a", "redis://b", false),
            ("amqp://u:1?canary@a", "redis://b", false),
            ("amqp://u:1#canary@a", "redis://b", false),
            ("amqp://a", "redis://u:1?canary@b", true),
            ("amqp:u:canary@a", "redis://b", false),
            ("u:canary@a", "redis://b", false),
            ("amqp://a", "//u:canary@b", true),
            ("amqp://u:canary@a:abc", "redis://b", false),
            ("amqp://u:canary@a", "redis://u:canary@b:abc", true),
        ] {
            let error = both(broker, store).unwrap_err();
            assert_eq!(error.is_of_store(), of_store, "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        assert_eq!(both("sqlite:x.db", "sqlite:x.db"), "sqlite:x.db".parse());
        for (broker, store, says) in [
            ("amqp://a:abc", "redis://b", "no port"),
            ("amqp://u:1@[::1]:abc/x", "redis://b", "no port"),
            ("amqp://a?heartbeat=x", "redis://b", "heartbeat"),
            ("amqp://a", "redis://u:1@b:99999", "no port"),
            ("amqp://a", "redis://u:%zz@b/x", "in a password"),
            (
                "amqp://a",
                "redis://:5%ZZcanary@b",
                "a % begins no escape; in a password, @ is written %40",
            ),
            ("amqp://u:canary%@a", "redis://b", "a % begins no escape"),
            ("amqp://u:canary%4@a", "redis://b", "a % begins no escape"),
            ("amqp://%u:canary@a", "redis://b", "a % begins no escape"),
        ] {
            let error = both(broker, store).unwrap_err().to_string();
            assert!(error.contains(says), "{broker} {store} {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(both("amqp://%75:%25%2f%2F@a/%", "redis://:100%25@b").is_ok());
    }
}
