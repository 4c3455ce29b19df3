//! The store against real servers: what it refuses, what it outlives, and its names.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use millhand_proto::{JobId, QueueName, RecordKey, State, TaskName};
use millhand_servers::Redis as Server;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use super::*;
use crate::backend::Mail;
use crate::pair::store::{EVERYBODY, Write};
use crate::url::Server as At;

/// Long enough for anything that is to happen.
const SOON: Duration = Duration::from_secs(20);

fn store(server: &Server) -> Arc<Redis> {
    Redis::new(&At::of(&server.url()), "tests", 1, Io::start("tests").unwrap()).unwrap()
}

fn put(number: u8) -> Swap {
    Swap {
        writes: vec![Write {
            key: Key::Caretaker,
            expected: Expected::Absent,
            bytes: Some(vec![number; 16]),
            keep: Duration::from_secs(60),
        }],
        effects: vec![Effect::Delete(Key::Caretaker)],
    }
}

async fn works(store: &Redis) -> bool {
    store.swap(vec![put(1)]).await.is_ok()
}

/// Works again by itself, and soon.
async fn recovers(store: &Redis) {
    let again = async {
        while !works(store).await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, again).await.expect("it works again");
}

fn refused(result: Result<Vec<Swapped>>) -> String {
    match result {
        Err(error @ Error::Unusable { .. }) => error.to_string(),
        other => panic!("it should be refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_by_itself_is_refused_with_the_line_that_mends_it() {
    let server = Server::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let store = store(&server);
    // Again as at the first time.
    for _ in 0..2 {
        let said = refused(store.swap(vec![put(1)]).await);
        assert!(said.contains("CONFIG SET maxmemory-policy noeviction"), "{said}");
    }
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert!(works(&store).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_newer_data_are_refused_without_secrets() {
    let server = Server::start();
    server.command(&["CONFIG", "SET", "requirepass", "right-canary"]);
    for user in ["", ":wrong-canary@"] {
        let url = format!("redis://{user}127.0.0.1:{}", server.port());
        let store = Redis::new(&At::of(&url), "tests", 1, Io::start("tests").unwrap()).unwrap();
        let said = refused(store.swap(vec![put(1)]).await);
        assert!(said.contains("password") && !said.contains("canary"), "{said}");
    }
    let server = Server::start();
    server.command(&["HSET", "mh:{tests.0}:meta", "version", "2"]);
    let said = refused(store(&server).swap(vec![put(1)]).await);
    assert!(said.contains("version 2") && said.contains("newer millhand"), "{said}");
    server.command(&["HSET", "mh:{tests.0}:meta", "version", "1", "shards", "64"]);
    let said = refused(store(&server).swap(vec![put(1)]).await);
    assert!(said.contains("set shards=64"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_and_a_user_without_rights_are_refused_in_the_words_of_the_server() {
    let server = Server::start();
    let refuses = async |user: &str, path: &str| {
        let url = format!("redis://{user}127.0.0.1:{}{path}", server.port());
        let store = Redis::new(&At::of(&url), "tests", 1, Io::start("tests").unwrap()).unwrap();
        refused(store.swap(vec![put(1)]).await)
    };
    let said = refuses("", "/99").await;
    assert!(
        said.contains("the database in the URL") && said.contains("DB index is out of range"),
        "{said}"
    );
    // Rights that are missing at the first look, and such that the script lacks.
    for (lacks, names) in [
        ("-info", "info"),
        ("-evalsha", "evalsha"),
        ("-del", "script"),
        ("-select", "select"),
    ] {
        let user = [
            "ACL", "SETUSER", "ana", "reset", "on", ">canary", "~*", "&*", "+@all", lacks,
        ];
        assert_eq!(server.command(&user).text(), "OK");
        let said = refuses("ana:canary@", if lacks == "-select" { "/1" } else { "" }).await;
        assert!(
            said.contains("the user in the URL") && said.contains(names) && !said.contains("canary"),
            "{lacks}: {said}"
        );
    }
    let user = [
        "ACL", "SETUSER", "ana", "reset", "on", ">canary", "~other*", "&*", "+@all",
    ];
    assert_eq!(server.command(&user).text(), "OK");
    let said = refuses("ana:canary@", "").await;
    assert!(said.contains("mh:*"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_for_a_while_are_outlived() {
    let server = Server::start();
    let ana = |rights: &str| {
        let user = ["ACL", "SETUSER", "ana", "on", ">canary", "~*", "&*", "+@all", rights];
        assert_eq!(block_in_place(|| server.command(&user)).text(), "OK");
    };
    ana("+@all");
    let url = format!("redis://ana:canary@127.0.0.1:{}/1", server.port());
    let store = Redis::new(&At::of(&url), "tests", 1, Io::start("tests").unwrap()).unwrap();
    assert!(works(&store).await);
    for rights in ["-@scripting", "-select", "-@all"] {
        ana(rights);
        server.command(&["CLIENT", "KILL", "USER", "ana"]);
        assert!(!works(&store).await, "{rights}");
        ana("+@all");
        recovers(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_may_say_for_a_while_is_outlived() {
    let server = Server::start();
    let store = store(&server);
    assert!(works(&store).await);
    let set = |words: &[&str]| drop(block_in_place(|| server.command(words)));
    // A replica after a failover.
    set(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(!works(&store).await);
    set(&["REPLICAOF", "NO", "ONE"]);
    recovers(&store).await;
    // No memory.
    set(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(!works(&store).await);
    set(&["CONFIG", "SET", "maxmemory", "0"]);
    recovers(&store).await;
    // No replica that it must have.
    set(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert!(!works(&store).await);
    set(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    recovers(&store).await;
    // A disk that takes no snapshot.
    set(&["CONFIG", "SET", "appendonly", "no"]);
    set(&["CONFIG", "SET", "save", "3600 1"]);
    std::fs::create_dir_all(server.folder().join("data/dump.rdb/in-its-place")).unwrap();
    let saves = async {
        while works(&store).await {
            set(&["BGSAVE"]);
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, saves).await.expect("MISCONF");
    set(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    recovers(&store).await;
    // Scripts that were forgotten.
    set(&["SCRIPT", "FLUSH"]);
    recovers(&store).await;
    // Connections that were cut.
    set(&["CLIENT", "KILL", "TYPE", "normal"]);
    recovers(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nothing_is_left_and_found_again() {
    let server = Server::start();
    let store = store(&server);
    assert!(works(&store).await);
    server.freeze();
    let asked = timeout(SOON, works(&store)).await;
    assert_eq!(asked, Ok(false), "the answer is not waited for for ever");
    server.thaw();
    recovers(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_its_data_is_waited_for() {
    // A tenth of a second for each key.
    let server = Server::with(&["--key-load-delay", "100000"]);
    for key in 0..30 {
        server.command(&["SET", &format!("key{key}"), "1"]);
    }
    let store = store(&server);
    assert!(works(&store).await);
    let restarting = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    sleep(Duration::from_millis(500)).await;
    recovers(&store).await;
    drop(restarting.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_go_on_after_every_fault_and_say_that_something_may_be_lost() {
    let server = Server::start();
    let store = store(&server);
    let mut mails = Store::watch(&*store, EVERYBODY).await.unwrap();
    let post = || Swap {
        writes: Vec::new(),
        effects: vec![Effect::Post(EVERYBODY, Mail::Control)],
    };
    let read = |mails: &mut mpsc::Receiver<Mail>| {
        let mut seen = Vec::new();
        while let Ok(mail) = mails.try_recv() {
            seen.push(mail);
        }
        seen
    };
    store.swap(vec![post()]).await.unwrap();
    assert_eq!(timeout(SOON, mails.recv()).await, Ok(Some(Mail::Control)));
    for fault in 0..3 {
        match fault {
            0 => drop(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"])),
            1 => block_in_place(|| server.restart()),
            _ => block_in_place(|| server.wipe_and_restart()),
        }
        // Nobody asks for anything: it comes back by itself.
        assert_eq!(timeout(SOON, mails.recv()).await, Ok(Some(Mail::Lost)), "fault {fault}");
        while store.swap(vec![post()]).await.is_err() {}
        assert_eq!(
            timeout(SOON, mails.recv()).await,
            Ok(Some(Mail::Control)),
            "fault {fault}"
        );
        assert!(read(&mut mails).iter().all(|mail| *mail == Mail::Lost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_given_up_is_closed() {
    let server = Server::start();
    let store = store(&server);
    recovers(&store).await;
    for _ in 0..20 {
        // The server does not know the script any more, and closes nothing.
        server.command(&["SCRIPT", "FLUSH"]);
        assert!(!works(&store).await);
        recovers(&store).await;
    }
    let connected = || {
        let info = server.command(&["INFO", "clients"]);
        let line = info
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:"));
        line.and_then(|count| count.trim().parse::<u32>().ok()).unwrap()
    };
    let few = async {
        // This one, and the one that asks.
        while connected() > 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let closed = timeout(SOON, few).await;
    assert!(closed.is_ok(), "{} connections", connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_changes_with_every_memory_and_boot() {
    let server = Server::start();
    let store = store(&server);
    let epoch = async || Store::pulse(&*store).await.unwrap();
    let first = epoch().await;
    assert_eq!(epoch().await, first);
    server.flush();
    let flushed = epoch().await;
    assert!(flushed.memory != first.memory && flushed.boot == first.boot);
    block_in_place(|| server.restart());
    recovers(&store).await;
    let restarted = epoch().await;
    assert!(restarted.memory == flushed.memory && restarted.boot != flushed.boot);
}

/// Names and values that others have written must be found for ever: a change is a new version.
#[test]
fn keys_and_channels_are_as_they_were_frozen() {
    let names = Names::new("main", 64);
    let id = JobId::given("golden");
    let worker = Mailbox::from_random([7; 16]);
    let (task, queue) = (TaskName::new("report.daily").unwrap(), QueueName::new("slow").unwrap());
    let keys = [
        Key::Record(RecordKey::Parcel(id)),
        Key::Record(RecordKey::Own(id)),
        Key::Result(id),
        Key::Delayed(id),
        Key::Dead(id),
        Key::Succeeded(3, task, 2_958_123),
        Key::Index(3, State::Dead),
        Key::Accepted(3, queue, 2_958_123),
        Key::Lease(worker),
        Key::Workers,
        Key::Queues,
        Key::Tasks,
        Key::Control,
        Key::Minute(29_581_230),
        Key::Flushed(0x0123_4567_89ab_cdef, 2),
        Key::Empty,
        Key::Unreadable,
        Key::Caretaker,
    ];
    let mut page: String = keys.iter().map(|key| names.key(key) + "\n").collect();
    for line in [
        names.mark("meta"),
        names.mark("epoch"),
        names.channel(worker),
        names.channel(EVERYBODY),
    ] {
        page += &(line + "\n");
    }
    crate::golden::same("keys.txt", &page);
    // What came later stands in files of its own.
    crate::golden::same("keys-log.txt", &(names.key(&Key::Log(id)) + "\n"));
}
