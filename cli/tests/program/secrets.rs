//! What must stay secret, stays so: passwords, a key, and the arguments of jobs, looked for in all
//! that the program says, at its most talkative, while things go wrong.

use std::fmt::Write as _;
use std::fs::{File, read_to_string};
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Instant;

use crate::place::{Lines, Place, Running, page, signal, text, until};
use millhand_servers::{Authority, Ends, Rabbit, Redis};

/// Passwords with what a URL must escape.
const BROKER: (&str, &str) = ("broker/c@nary:1", "broker%2Fc%40nary%3A1");
const STORE: (&str, &str) = ("store/c@nary:2", "store%2Fc%40nary%3A2");
const WRONG: (&str, &str) = ("wrong/c@nary:3", "wrong%2Fc%40nary%3A3");
const ARGUMENT: &str = "argument-canary-4";
const TAG: &str = "tag-canary-5";

const TASKS: &str = r#"
[tasks.crash]
command = ["sh", "-c", "kill -9 $$"]
retries = 1
crashes = 1
[tasks.again]
command = ["sh", "-c", "exit 1"]
retries = 5
"#;

/// What the program said, and where.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// Runs a command; whatever comes of it is noted.
    fn run(&mut self, place: &Place, args: &[&str]) -> i32 {
        let output = place.command(args).env("RUST_LOG", "trace").output().unwrap();
        // What was typed is no secret; a password in it is, and is looked for.
        let name = format!(
            "millhand {}",
            args.iter().take(3).copied().collect::<Vec<_>>().join(" ")
        );
        self.add(name, text(&output.stdout) + &text(&output.stderr));
        output.status.code().unwrap()
    }

    fn enqueue(&mut self, place: &Place, task: &str, more: &[&str]) -> i32 {
        let arguments = format!("{ARGUMENT:?}");
        let args = ["enqueue", task, "--args", &arguments, "--tag", TAG];
        self.run(place, &[&args, more].concat())
    }

    /// Where a secret stands, written in any way in which a program may write it.
    fn told(&self, secret: &str) -> Vec<&str> {
        let mut escaped = String::new();
        let mut encoded = String::new();
        for byte in secret.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let _ = match plain {
                true => write!(escaped, "{}", char::from(byte)),
                false => write!(escaped, "%{byte:02X}"),
            };
            let _ = write!(encoded, "{byte:02x}");
        }
        let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        let [aligned, shifted, again] = base64(secret);
        let forms = [
            aligned,
            shifted,
            again,
            secret.to_owned(),
            escaped.to_lowercase(),
            escaped,
            encoded.to_uppercase(),
            encoded,
            numbers.join(", "),
            numbers.join(","),
            secret.replace('/', "\\/"),
            secret.replace('/', "&#x2F;"),
        ];
        let holds = |said: &&(String, String)| forms.iter().any(|form| said.1.contains(form));
        self.0.iter().filter(holds).map(|(place, _)| place.as_str()).collect()
    }
}

/// The base64 of a secret wherever it begins in what is encoded: the character before it and the one behind it also
/// hold bits of others, and are left out.
fn base64(secret: &str) -> [String; 3] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<usize> = secret
        .bytes()
        .flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1)))
        .collect();
    [0, 2, 4].map(|before| {
        let whole = bits[before..].chunks_exact(6);
        whole
            .map(|six| char::from(ALPHABET[six.iter().fold(0, |number, bit| 2 * number + bit)]))
            .collect()
    })
}

#[test]
fn secrets_are_found_in_base64_too() {
    // `printf 'ana:broker/c@nary:1' | base64`, and with one and with two bytes less before it.
    for encoded in [
        "YW5hOmJyb2tlci9jQG5hcnk6MQ==",
        "bmE6YnJva2VyL2NAbmFyeTox",
        "YTpicm9rZXIvY0BuYXJ5OjE=",
    ] {
        let mut said = Said::default();
        said.add("a header", format!("authorization: Basic {encoded}"));
        assert_eq!(said.told(BROKER.0), ["a header"], "{encoded}");
        assert_eq!(said.told(STORE.0), [""; 0], "{encoded}");
    }
}

/// What the page that goes on for ever says first.
fn live(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /live HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&said).contains("data:") {
        let read = stream.read(&mut part).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&part[..read]);
    }
    text(&said)
}

/// The servers, with users who have the passwords.
fn servers(authority: &Authority) -> (Rabbit, Redis) {
    let (rabbit, redis) = (Rabbit::with_tls(authority), Redis::with_tls(authority));
    rabbit.ctl(&["add_user", "ana", BROKER.0]);
    rabbit.ctl(&["set_permissions", "ana", ".*", ".*", ".*"]);
    let password = format!(">{}", STORE.0);
    let user = ["ACL", "SETUSER", "ana", "on", &password, "~*", "&*", "+@all"];
    assert_eq!(redis.command(&user).text(), "OK");
    (rabbit, redis)
}

/// A line of a key's file, as it is written in PEM.
fn line_of_key(authority: &Authority) -> String {
    let key = read_to_string(authority.key("client")).unwrap();
    key.lines().nth(1).unwrap().to_owned()
}

fn state(place: &Place, id: &str) -> String {
    let shown: serde_json::Value =
        serde_json::from_slice(&place.run(&["job", "show", id, "--json"]).stdout).unwrap_or_default();
    shown["job"]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn secrets_are_told_nowhere() {
    let authority = Authority::new();
    authority.sign("server", &["localhost"], Ends::Late);
    authority.sign("client", &[], Ends::Late);
    let (rabbit, redis) = servers(&authority);
    let parameters = authority.parameters("client");
    let broker = |password: &str| {
        let port = rabbit.tls_port();
        format!("amqps://ana:{password}@localhost:{port}/?ns=secrets&{parameters}")
    };
    let store = |password: &str| format!("rediss://ana:{password}@localhost:{}?{parameters}", redis.tls_port());
    let place = Place::new();
    let settings = place.path().join("millhand.toml");
    let tasks = read_to_string(&settings).unwrap() + TASKS;
    let (right_broker, right_store) = (broker(BROKER.1), store(STORE.1));
    let written = format!("broker = {right_broker:?}\nstore = {right_store:?}\n{tasks}");
    std::fs::write(&settings, written).unwrap();

    let mut said = Said::default();
    let worker = |log: &str, more: &[&str]| {
        let log = File::create(place.path().join(log)).unwrap();
        let mut command = place.command(&[&["worker"], more].concat());
        command.env("MILLHAND_LOG", "trace").env("RUST_LOG", "trace");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    };

    // A worker at work; jobs of every end; the broker killed while one runs, and away; a queue that
    // is deleted, so that RabbitMQ returns messages.
    let running = worker("worker.log", &["--health", "127.0.0.1:0"]);
    let log = place.path().join("worker.log");
    let mut at = String::new();
    until("its address", || {
        let log = read_to_string(&log).unwrap();
        let after = log.split_once("answers /live, /ready and /startup address=");
        let line = after.and_then(|(_, rest)| rest.split_once('\n'));
        at = line.map(|(address, _)| address.trim().to_owned()).unwrap_or_default();
        !at.is_empty()
    });
    // What it says of itself when it is not ready, for this reason.
    let health = |said: &mut Said, why: &str| {
        until(why, || page(&at, "/ready").contains(why));
        said.add(format!("/ready: {why}"), page(&at, "/ready"));
        for output in ["text", "json"] {
            assert_eq!(said.run(&place, &["worker", "health", "--at", &at, "-o", output]), 1);
        }
    };
    assert_eq!(said.enqueue(&place, "wordcount", &["--wait"]), 0);
    assert_eq!(said.enqueue(&place, "fail", &["--id", "failed", "--wait"]), 100);
    assert_eq!(said.enqueue(&place, "crash", &["--id", "crashed", "--wait"]), 100);
    assert_eq!(said.enqueue(&place, "wordcount", &["--id", "late", "--delay", "1h"]), 0);
    assert_eq!(said.enqueue(&place, "again", &["--id", "again"]), 0);
    assert_eq!(said.enqueue(&place, "nobody", &["--id", "parked"]), 0);
    assert_eq!(said.enqueue(&place, "slow", &["--id", "slow"]), 0);
    // A delay of an hour made all levels of the ladder.
    let declared = Instant::now();
    until("a job runs", || state(&place, "slow") == "running");
    rabbit.kill_when_queues_are_kept(declared);
    health(&mut said, "nothing can come from queue default");
    assert_eq!(said.enqueue(&place, "wordcount", &[]), 5);
    said.run(&place, &["queue", "list"]);
    rabbit.restart();
    assert_eq!(said.enqueue(&place, "wordcount", &["--wait"]), 0);
    let queues = rabbit.ctl(&["list_queues", "name"]);
    let work: Vec<&str> = queues.lines().filter(|name| name.contains(".q.default.")).collect();
    for name in &work {
        rabbit.ctl(&["delete_queue", name]);
    }
    assert!(!work.is_empty(), "{queues}");
    assert_eq!(said.enqueue(&place, "wordcount", &["--wait"]), 0);
    redis.kill();
    health(&mut said, "no beat was answered");
    said.enqueue(&place, "wordcount", &[]);
    said.run(&place, &["job", "list"]);
    redis.restart();
    let user = format!(">{}", STORE.0);
    redis.command(&["ACL", "SETUSER", "ana", "on", &user, "~*", "&*", "+@all"]);

    // Every command that reads.
    let ids = ["failed", "crashed", "late", "again", "parked", "slow", "nobody-knows"];
    for output in ["text", "json"] {
        for args in [
            &["job", "list"][..],
            &["queue", "list"],
            &["worker", "list"],
            &["stats"],
            &["advise"],
            &["limits"],
            &["dead", "rebuild"],
            &["worker", "--check"],
        ] {
            said.run(&place, &[args, &["-o", output]].concat());
        }
        for id in ids {
            said.run(&place, &["job", "show", id, "-o", output]);
            said.run(&place, &["job", "log", id, "-o", output]);
        }
    }

    // The dashboard.
    let log = File::create(place.path().join("dashboard.log")).unwrap();
    let mut command = place.command(&["dashboard", "--bind", "127.0.0.1:0"]);
    command.env("MILLHAND_LOG", "trace").env("RUST_LOG", "trace");
    command.stderr(Stdio::piped()).stdout(log);
    let mut dashboard = Running(command.spawn().unwrap());
    let mut stderr = Lines::of(dashboard.0.stderr.take().unwrap());
    let address = stderr.between("http://", ";");
    said.add("/live", live(&address));
    for path in ["/", "/nowhere"] {
        said.add(path, page(&address, path));
    }
    for id in ids {
        let found = page(&address, &format!("/jobs?id={id}"));
        let moved = found.lines().find_map(|line| line.strip_prefix("location: "));
        said.add(
            format!("/jobs of {id}"),
            moved.map_or(found.clone(), |path| page(&address, path.trim())),
        );
    }
    signal(&dashboard.0, "-INT");
    dashboard.0.wait().unwrap();
    said.add("dashboard's errors", stderr.all());
    said.add(
        "dashboard.log",
        read_to_string(place.path().join("dashboard.log")).unwrap(),
    );

    // Wrong passwords, and settings that are written wrong.
    let (wrong_broker, wrong_store) = (broker(WRONG.1), store(WRONG.1));
    assert_eq!(said.run(&place, &["queue", "list", "--broker", &wrong_broker]), 5);
    assert_eq!(
        said.run(&place, &["queue", "list", "--store", &wrong_store, "--json"]),
        5
    );
    assert_eq!(said.enqueue(&place, "wordcount", &["--broker", &wrong_broker]), 5);
    let refused = worker("refused.log", &["--broker", &wrong_broker]);
    let log = place.path().join("refused.log");
    until("a refusal", || {
        read_to_string(&log).unwrap().contains("refuses the user or password")
    });
    drop(refused);
    for bad in [
        format!("amqp://ana:{}@h", BROKER.0),
        format!("amqp:ana:{}@h", BROKER.1),
        format!("ana:{}@h", BROKER.1),
        format!("{right_broker}&pasword={}", WRONG.1),
    ] {
        assert_eq!(said.run(&place, &["queue", "list", "--broker", &bad]), 2);
        said.run(&place, &["queue", "list", &bad]);
        for quote in ["\"", ""] {
            let file = place.path().join("bad.toml");
            std::fs::write(&file, format!("broker = {quote}{bad}\n")).unwrap();
            assert_eq!(said.run(&place, &["queue", "list", "--config", "bad.toml"]), 2);
        }
    }

    drop(running);
    for log in ["worker.log", "refused.log"] {
        said.add(log, read_to_string(place.path().join(log)).unwrap());
    }
    let log = &said.0.iter().find(|(place, _)| place == "worker.log").unwrap().1;
    assert!(
        log.contains("the job is dead") && log.contains("the connection is dropped"),
        "{log}"
    );

    for secret in [BROKER.0, STORE.0, WRONG.0, &line_of_key(&authority)] {
        assert_eq!(said.told(secret), [""; 0], "{secret}");
    }
    // Arguments are shown on purpose where one job is asked for that still needs them: a dead or a
    // delayed one. Tags are shown wherever a job is.
    let of_job = |place: &str, ids: &[&str]| {
        let id = place
            .strip_prefix("millhand job show ")
            .or(place.strip_prefix("/jobs of "));
        id.is_some_and(|id| ids.contains(&id))
    };
    for (secret, ids, list) in [(ARGUMENT, &ids[..3], "none"), (TAG, &ids, "millhand job list")] {
        let told = said.told(secret);
        assert!(told.contains(&"/jobs of failed"), "{secret} is looked for: {told:?}");
        for place in told {
            assert!(of_job(place, ids) || place.starts_with(list), "{secret}: {place}");
        }
    }
}
