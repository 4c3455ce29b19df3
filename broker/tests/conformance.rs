//! The suite on every back end, and the page that it prints.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use millhand_broker::memory::Memory;
use millhand_broker::sqlite::Sqlite;
use millhand_broker::{Backend, BackendUrl, conformance, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    conformance::exercise(&|| Memory::open().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_on_a_standing_clock() {
    conformance::exercise(&|| Memory::standing().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let dirs = Mutex::new(Vec::new());
    conformance::exercise(&|| {
        let dir = tempfile::tempdir().unwrap();
        let backend = Sqlite::open(dir.path().join("jobs.db")).unwrap();
        dirs.lock().unwrap().push(dir);
        backend
    })
    .await;
}

/// RabbitMQ and Redis, in a namespace that nobody else uses.
fn pair(namespace: &str) -> Arc<dyn Backend> {
    let servers = millhand_servers::shared();
    let broker = format!("{}?ns={namespace}", servers.rabbit.url());
    open(&BackendUrl::of(&broker, Some(&servers.redis.url())).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_and_redis() {
    let cases = AtomicUsize::new(0);
    conformance::exercise(&|| pair(&format!("case{}", cases.fetch_add(1, Ordering::Relaxed)))).await;
    let (keys, lasting) = millhand_servers::shared().redis.keys();
    assert!(keys > 50, "the suite writes keys of every kind: {keys}");
    assert!(lasting.is_empty(), "these keys stay for ever: {lasting:?}");
}

#[test]
fn the_page_of_back_ends_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = BackendUrl::of("amqp://localhost", Some("redis://localhost")).unwrap();
    let all: [Arc<dyn Backend>; 3] = [
        Sqlite::open(dir.path().join("jobs.db")).unwrap(),
        Memory::open().unwrap(),
        open(&fleet).unwrap(),
    ];
    let page = conformance::table(&all.map(|backend| backend.facts()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backends.md");
    if std::env::var_os("MILLHAND_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, page, "docs/backends.md differs; MILLHAND_BLESS=1 rewrites it");
}
