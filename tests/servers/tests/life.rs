//! What the servers promise to tests, and that nothing is left of them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millhand_servers::{Rabbit, Redis, Reply, shared};

#[test]
fn redis_keeps_its_data_through_a_kill_and_a_stop() {
    let redis = Redis::start();
    redis.command(&["SET", "a", "1"]);
    redis.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).is_err());
    redis.restart();
    assert_eq!(redis.command(&["GET", "a"]).text(), "1");
    redis.command(&["RPUSH", "list", "x", "y"]);
    redis.stop();
    redis.restart();
    assert_eq!(redis.command(&["LRANGE", "list", "0", "-1"]).items().len(), 2);
    assert_eq!(redis.command(&["TTL", "list"]).int(), -1);
    redis.wipe_and_restart();
    assert_eq!(redis.command(&["GET", "a"]), Reply::Nil);
    redis.command(&["SET", "a", "2"]);
    redis.flush();
    assert_eq!(redis.command(&["DBSIZE"]).int(), 0);
}

#[test]
fn redis_takes_options_and_refusals_are_answers() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let policy = redis.command(&["CONFIG", "GET", "maxmemory-policy"]);
    assert_eq!(policy.items()[1].text(), "allkeys-lru");
    assert!(matches!(redis.command(&["NOSUCH"]), Reply::Error(_)));
}

#[test]
fn a_frozen_redis_goes_on_where_it_was() {
    let redis = Redis::start();
    redis.freeze();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| redis.command(&["PING"]));
        // It can be asked, and does not answer.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished());
        redis.thaw();
        asked.join().unwrap()
    });
    assert_eq!(answer.text(), "PONG");
}

#[test]
fn rabbitmq_comes_back_with_its_data_and_settings() {
    let rabbit = Rabbit::with(&[("consumer_timeout", "60000")]);
    assert_eq!(
        rabbit
            .ctl(&["eval", "application:get_env(rabbit, consumer_timeout)."])
            .trim(),
        "{ok,60000}"
    );
    rabbit.ctl(&["add_vhost", "kept"]);
    rabbit.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, rabbit.port())).is_err());
    rabbit.restart();
    assert!(rabbit.ctl(&["list_vhosts"]).contains("kept"));
    rabbit.freeze();
    rabbit.thaw();
    rabbit.stop();
    rabbit.restart();
    assert!(rabbit.ctl(&["list_vhosts"]).contains("kept"));
    let folder = rabbit.folder().to_owned();
    drop(rabbit);
    nothing_is_left(&folder);
}

/// Says who answers; `scripts/other-servers` prints it.
#[test]
fn each_server_says_what_it_is() {
    let servers = shared();
    let versions = [servers.rabbit.version(), servers.redis.version()];
    println!("answered: {}", versions.join(", "));
    for version in versions {
        let (name, number) = version.split_once(' ').unwrap();
        assert!(["RabbitMQ", "Redis", "Valkey"].contains(&name), "{version}");
        assert!(number.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    }
}

const CHILD: &str = "MILLHAND_SERVERS_TEST_CHILD";

/// Runs this test in a process of its own, which is killed.
#[test]
fn nothing_outlives_a_killed_process() {
    if std::env::var_os(CHILD).is_some() {
        let servers = shared();
        println!("\nFOLDER {}", servers.rabbit.folder().display());
        println!("FOLDER {}", servers.redis.folder().display());
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_outlives_a_killed_process", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let folders: Vec<PathBuf> = lines
        .filter_map(|line| Some(line.unwrap().strip_prefix("FOLDER ")?.into()))
        .take(2)
        .collect();
    let running: Vec<_> = folders.iter().map(|folder| processes_of(folder).len()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // The node with its helpers, epmd and the keeper; Redis and its keeper.
    assert!(running[0] >= 3 && running[1] >= 2, "{running:?} in {folders:?}");
    for folder in folders {
        nothing_is_left(&folder);
    }
}

/// The shell that cleans up is not awaited by anybody, so this looks for a while.
fn nothing_is_left(folder: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = processes_of(folder);
        if processes.is_empty() && !folder.exists() {
            return;
        }
        assert!(Instant::now() < end, "left in {}: {processes:?}", folder.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes that know the folder: it is where they are, in their arguments or in their
/// environment.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let knows = |process: &Path| {
        let at = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let texts = ["cmdline", "environ"].map(|file| std::fs::read(process.join(file)).unwrap_or_default());
        at.to_string_lossy().contains(folder) || texts.iter().any(|text| String::from_utf8_lossy(text).contains(folder))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| knows(path))
        .map(|path| std::fs::read_to_string(path.join("stat")).unwrap_or_default())
        .collect()
}
