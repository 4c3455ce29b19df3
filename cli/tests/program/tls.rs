//! TLS to both servers: a job goes all the way through, and whatever is not as it should be is
//! refused in words, without a password, soon, and without anything said in the clear.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::place::{Lines, Place, Running, page};
use millhand_servers::{Authority, Ends, Rabbit, Redis};

/// More than a connection may take, with room for a busy machine.
const BOUND: Duration = Duration::from_secs(60);

const LONG: &str = "0199a000-0000-4000-8000-000000000001";

/// Both servers with TLS, and who signs for them.
struct Fleet {
    authority: Authority,
    rabbit: Rabbit,
    redis: Redis,
    /// Whom they do not know.
    stranger: Authority,
}

impl Fleet {
    fn start() -> Self {
        let authority = Authority::new();
        authority.sign("server", &["localhost"], Ends::Late);
        authority.sign("client", &[], Ends::Late);
        authority.sign("old", &[], Ends::Ago);
        let stranger = Authority::new();
        stranger.sign("client", &[], Ends::Late);
        Self {
            rabbit: Rabbit::with_tls(&authority),
            redis: Redis::with_tls(&authority),
            authority,
            stranger,
        }
    }

    /// The servers' URLs, whose scheme, host, port and parameters are the caller's.
    fn broker(&self, scheme: &str, host: &str, tls: bool, parameters: &str) -> String {
        let port = if tls {
            self.rabbit.tls_port()
        } else {
            self.rabbit.port()
        };
        format!("{scheme}://guest:guest@{host}:{port}/?ns=tls&{parameters}")
    }

    fn store(&self, scheme: &str, host: &str, tls: bool, parameters: &str) -> String {
        let port = if tls { self.redis.tls_port() } else { self.redis.port() };
        format!("{scheme}://ana:canary@{host}:{port}?{parameters}")
    }

    fn parameters(&self) -> String {
        self.authority.parameters("client")
    }
}

fn settings(place: &Place, broker: &str, store: &str) {
    let tasks = std::fs::read_to_string(place.path().join("millhand.toml")).unwrap();
    let written = format!("broker = {broker:?}\nstore = {store:?}\n{tasks}");
    std::fs::write(place.path().join("millhand.toml"), written).unwrap();
}

/// What a command says that cannot use its servers.
fn refused(place: &Place, args: &[&str], broker: &str, store: &str) -> String {
    let since = Instant::now();
    let (out, err) = place.expect(5, &[args, &["--broker", broker, "--store", store]].concat());
    let said = out + &err;
    assert!(since.elapsed() < BOUND, "{said}");
    assert!(!said.contains("canary") && !said.contains("guest:guest"), "{said}");
    said
}

#[test]
fn everything_works_over_tls_and_nothing_without_the_right_certificates() {
    let fleet = Fleet::start();
    let ana = ["ACL", "SETUSER", "ana", "on", ">canary", "~*", "&*", "+@all"];
    assert_eq!(fleet.redis.command(&ana).text(), "OK");
    all_the_way(&fleet);
    wrong_certificates(&fleet);
}

fn all_the_way(fleet: &Fleet) {
    let place = Place::new();
    let parameters = fleet.parameters();
    settings(
        &place,
        &fleet.broker("amqps", "localhost", true, &parameters),
        &fleet.store("rediss", "localhost", true, &parameters),
    );
    let worker = place.worker();
    let (out, err) = place.expect(0, &["enqueue", "wordcount", "--args", "\"a b c\"", "--wait"]);
    assert_eq!((out.trim(), err.as_str()), ("3", ""));
    let long = format!("\"{}word\"", "word ".repeat(19_999));
    let (out, _) = place.expect(0, &["enqueue", "wordcount", "--args", &long, "--id", LONG, "--wait"]);
    assert_eq!(out.trim(), "20000");
    place.expect(0, &["queue", "list"]);

    let mut command = place.command(&["dashboard", "--bind", "127.0.0.1:0"]);
    let mut dashboard = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let address = Lines::of(dashboard.0.stderr.take().unwrap()).between("http://", ";");
    let page = page(&address, &format!("/jobs/{LONG}"));
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("wordcount"), "{page}");

    // The servers themselves say how they were reached.
    let connections = fleet.rabbit.ctl(&["list_connections", "ssl", "peer_cert_subject"]);
    let secure = |line: &str| line.starts_with("true") && line.contains("client");
    let mut lines = connections
        .lines()
        .filter(|line| !line.starts_with("ssl") && !line.is_empty());
    assert!(lines.clone().count() >= 1 && lines.all(secure), "{connections}");
    let clients = fleet.redis.command(&["CLIENT", "LIST"]);
    let secure = format!("laddr=127.0.0.1:{}", fleet.redis.tls_port());
    assert!(clients.text().matches(&secure).count() >= 2, "{clients:?}");
    drop((worker, dashboard));
}

fn wrong_certificates(fleet: &Fleet) {
    let place = Place::new();
    let right = fleet.parameters();
    let show = |path: &Path| format!("{path:?}");
    let ca = format!("ca={}", fleet.authority.ca().display());
    let foreign = format!("ca={}", fleet.stranger.ca().display());
    let identity = |of: &Authority, name: &str| {
        let (cert, key) = (of.certificate(name), of.key(name));
        format!("{ca}&cert={}&key={}", cert.display(), key.display())
    };
    let unknown = identity(&fleet.stranger, "client");
    let old = identity(&fleet.authority, "old");
    let stranger = show(&fleet.stranger.certificate("client"));
    // Whether it is TLS, the host, whether at the port for it, the parameters, what is said.
    let cases: &[(bool, &str, bool, &str, &str)] = &[
        (
            true,
            "127.0.0.1",
            true,
            &right,
            "its certificate is not for \"127.0.0.1\"",
        ),
        (true, "localhost", true, &foreign, "comes from none of those in ca="),
        (true, "localhost", true, "", "ca=FILE"),
        (true, "localhost", true, &ca, "cert=FILE&key=FILE"),
        (true, "localhost", true, &unknown, &stranger),
        (true, "localhost", true, &old, "old.pem"),
        (true, "localhost", false, &right, "TLS"),
        (false, "localhost", true, "", "if it speaks TLS"),
    ];
    let broker = fleet.broker("amqps", "localhost", true, &right);
    let store = fleet.store("rediss", "localhost", true, &right);
    for (tls, host, port, parameters, says) in cases {
        let s = if *tls { "s" } else { "" };
        let wrong = fleet.broker(&format!("amqp{s}"), host, *port, parameters);
        let err = refused(&place, &["queue", "list"], &wrong, &store);
        assert!(
            err.contains(says) && err.contains(&format!("amqp{s}://{host}")),
            "{wrong}\n{err}"
        );
        let wrong = fleet.store(&format!("redis{s}"), host, *port, parameters);
        let err = refused(&place, &["job", "list"], &broker, &wrong);
        assert!(
            err.contains(says) && err.contains(&format!("redis{s}://{host}")),
            "{wrong}\n{err}"
        );
    }

    fleet.authority.sign("server", &["localhost"], Ends::Ago);
    fleet.rabbit.ctl(&["eval", "ssl:clear_pem_cache()."]);
    let file = fleet.authority.certificate("server").display().to_string();
    let key = fleet.authority.key("server").display().to_string();
    let read = ["CONFIG", "SET", "tls-cert-file", &file, "tls-key-file", &key];
    assert_eq!(fleet.redis.command(&read).text(), "OK");
    let plain = fleet.store("redis", "localhost", false, "");
    let err = refused(&place, &["queue", "list"], &broker, &plain);
    assert!(err.contains("amqps://") && err.contains("expired"), "{err}");
    let err = refused(&place, &["job", "list"], &broker, &store);
    assert!(err.contains("rediss://") && err.contains("expired"), "{err}");
}

/// What a client says to a server that never answers, until it gives up.
fn listen(address: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = address.accept().unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    said
}

#[test]
fn a_server_that_says_nothing_is_given_up_and_hears_nothing_in_the_clear() {
    let place = Place::new();
    let redis = Redis::start();
    for (args, of_store) in [(["enqueue", "wordcount"], false), (["job", "list"], true)] {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let broker = format!("amqps://ana:canary@localhost:{port}");
        let (broker, store) = match of_store {
            false => (broker, redis.url()),
            true => (broker, format!("rediss://ana:canary@localhost:{port}")),
        };
        let heard = std::thread::spawn(move || {
            let heard = listen(&silent);
            (heard, silent)
        });
        let said = refused(&place, &args, &broker, &store);
        assert!(said.contains("is TLS spoken at its port?"), "{said}");
        let (heard, _) = heard.join().unwrap();
        // A record of a handshake; nothing follows its first message, which names the host only.
        assert_eq!(heard[0], 22, "{heard:?}");
        let heard = String::from_utf8_lossy(&heard);
        assert!(
            !heard.contains("canary") && !heard.contains("AMQP") && !heard.contains("HELLO"),
            "{heard}"
        );
    }
}

#[test]
fn files_that_are_missing_are_named_with_their_parameter() {
    let place = Place::new();
    for (broker, store) in [
        ("amqps://ana:canary@localhost?ca=/none.pem", "redis://localhost"),
        ("amqp://localhost", "rediss://ana:canary@localhost?ca=/none.pem"),
    ] {
        let said = refused(&place, &["queue", "list"], broker, store);
        assert!(
            said.contains("s://localhost: ca=\"/none.pem\" cannot be read"),
            "{said}"
        );
    }
}
