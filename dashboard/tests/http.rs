//! The dashboard as HTTP: what it shows, and what it refuses.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Break, HOSTILE, LONG, Site, echo, fill, until, work};
use millhand_broker::faults::{Door, Fault, Faulty};
use millhand_broker::memory::Memory;
use millhand_broker::{Backend, BackendUrl, WorkerBeat, open};
use millhand_client::Client;
use millhand_proto::{JobId, Mailbox, QueueName};
use tokio::io::AsyncReadExt;

fn memory() -> Arc<dyn Backend> {
    Memory::open().unwrap()
}

#[tokio::test]
async fn the_overview_shows_figures_queues_workers_and_the_dead() {
    let backend = memory();
    let (_, dead) = fill(&backend).await;
    let mut beat = WorkerBeat::new(Mailbox::from_bytes([7; 16]), backend.now(), vec![QueueName::default()]);
    (beat.host, beat.slots, beat.running) = ("mill-7".into(), 8, 3);
    backend.beat(beat).await.unwrap();
    let site = Site::start(&backend).await;
    let page = site.get("/").await;
    assert_eq!(page.status, 200);
    for wanted in [
        "<title>▲2 · Overview · millhand</title>",
        "lonely: 1 waiting and no worker",
        "<h2>Queued</h2>",
        "1 job due and waiting",
        "1 job died in 15 min",
        "26 in 1 h",
        "1 of 26",
        "mill-7:",
        "3/8",
        &format!(r#"href="/jobs/{dead}""#),
        "memory:",
        "as of <time>",
        r#"aria-current="true">1 h"#,
    ] {
        assert!(page.body.contains(wanted), "{wanted}: {}", page.body);
    }
    assert_eq!(page.body.matches(r#"<svg class="chart""#).count(), 4);
    assert_eq!(page.body.matches("<details>").count(), 4, "a table beside each chart");
    assert!(!page.body.contains(" style="), "the policy would refuse it");
    for range in ["15m", "6h", "24h"] {
        let page = site.get(&format!("/?range={range}")).await;
        assert_eq!((page.status, page.body.contains("1 of 26")), (200, true), "{range}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_and_redis_are_shown_alike() {
    let servers = millhand_servers::shared();
    let broker = format!("{}?ns=dashboard", servers.rabbit.url());
    let backend = open(&BackendUrl::of(&broker, Some(&servers.redis.url())).unwrap()).unwrap();
    let client = Client::new(Arc::clone(&backend));
    let done = client.enqueue(echo(HOSTILE)).await.unwrap().id();
    let dead = client.enqueue(Break { text: HOSTILE.into() }).await.unwrap().id();
    // What is published may be seen a moment later: until then a worker finds nothing to do.
    let both = async {
        loop {
            work(&backend, "default").await;
            let ended = async |id| {
                client
                    .get(id)
                    .await
                    .unwrap()
                    .is_some_and(|view| view.entry.state.is_ended())
            };
            if ended(done).await && ended(dead).await {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, both).await.unwrap();
    let site = Site::start(&backend).await;
    let page = site.get("/").await;
    assert_eq!(page.status, 200);
    let dead_link = format!(r#"href="/jobs/{dead}""#);
    for wanted in [
        "2 in 1 h",
        "1 of 2",
        "amqp://",
        "redis://",
        &dead_link,
        "1 job died in 15 min",
        "<h2>Queued messages</h2>",
        "0 messages due and waiting",
    ] {
        assert!(page.body.contains(wanted), "{wanted}: {}", page.body);
    }
    for (id, wanted) in [(done, "Succeeded on attempt 1"), (dead, "Died after 1 attempt")] {
        let page = site.get(&format!("/jobs/{id}")).await;
        assert!(
            page.body.contains(wanted) && page.body.contains("&#60;script&#62;alert"),
            "{}",
            page.body
        );
    }
    site.stop().await;
}

#[tokio::test]
async fn an_empty_back_end_says_so() {
    let site = Site::start(&memory()).await;
    let page = site.get("/").await;
    for wanted in [
        "No problem found by",
        "No queue is known",
        "No worker.",
        "No dead jobs.",
        "no samples",
        "No attempt ended",
    ] {
        assert!(page.body.contains(wanted), "{wanted}");
    }
    site.stop().await;
}

#[tokio::test]
async fn what_a_job_answered_is_shown_as_text() {
    let backend = memory();
    let (done, dead) = fill(&backend).await;
    let site = Site::start(&backend).await;
    for (id, wanted) in [(done, "Succeeded on attempt 1"), (dead, "Died after 1 attempt")] {
        let page = site.get(&format!("/jobs/{id}")).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains(wanted), "{}", page.body);
        assert!(
            !page.body.contains("<script>alert") && !page.body.contains("<img"),
            "{}",
            page.body
        );
        assert!(page.body.contains("&#60;script&#62;alert"), "{}", page.body);
    }
    let page = site.get(&format!("/jobs/{done}")).await;
    assert!(page.body.contains(r#"<svg class="chart waterfall""#) && page.body.contains("Result"));
    let page = site.get("/").await;
    assert!(!page.body.contains(HOSTILE) && page.body.contains("&#60;script&#62;alert"));
    site.stop().await;
}

#[tokio::test]
async fn a_job_is_found_by_what_was_typed() {
    let backend = memory();
    let client = Client::new(Arc::clone(&backend));
    let mine = millhand_client::Job::of(echo("x")).id("invoice 7");
    let mine = client.enqueue(mine).await.unwrap().id();
    let site = Site::start(&backend).await;
    for typed in [mine.to_string(), format!("+{mine}+"), "invoice+7".into()] {
        let answer = site.get(&format!("/jobs?id={typed}")).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some(format!("/jobs/{mine}").as_str())),
            "{typed}"
        );
    }
    assert_eq!(site.get(&format!("/jobs/{mine}")).await.status, 200);
    for bad in [
        "/jobs",
        "/jobs?id=",
        "/jobs?id=%20",
        "/jobs?id=a%00b",
        "/jobs/invoice%207",
        "/jobs/%3Cb%3E",
    ] {
        let answer = site.get(bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!answer.body.contains("<b>"));
    }
    let unknown = site.get(&format!("/jobs/{}", JobId::from_bytes([9; 16]))).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("may have been forgotten"), "{}", unknown.body);
    site.stop().await;
}

#[tokio::test]
async fn every_answer_carries_the_policy() {
    let backend = Faulty::around(memory());
    let (done, _) = fill(&(Arc::clone(&backend) as Arc<dyn Backend>)).await;
    let site = Site::start(&(Arc::clone(&backend) as Arc<dyn Backend>)).await;
    let host = site.address;
    let job = format!("/jobs/{done}");
    let gets = [
        "/",
        "/?range=2h",
        "/?range=%ff",
        "/jobs",
        "/jobs?id=x",
        "/jobs/x",
        &job,
        "/nowhere",
        "/live?range=x",
        "/assets/style.css",
        "/assets/live.js",
    ];
    let mut answers = Vec::new();
    for path in gets {
        answers.push((path, site.get(path).await));
    }
    backend.plan(Door::Read, Fault::RequestLost, 1);
    answers.push(("a fault", site.get(&job).await));
    assert_eq!(answers.last().unwrap().1.status, 503);
    answers.push((
        "POST",
        site.ask(&format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n"))
            .await,
    ));
    answers.push(("host", site.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n").await));
    for (what, answer) in answers {
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.contains(part), "{what}: {answer:?}");
        }
        assert!(!policy.contains("unsafe"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    }
    site.stop().await;
}

#[tokio::test]
async fn nothing_but_looking_is_answered() {
    let site = Site::start(&memory()).await;
    let host = site.address;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in ["/", "/jobs/x", "/live", "/nowhere"] {
            let answer = site.ask(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n")).await;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("get, head")),
                "{method} {path}"
            );
        }
    }
    let head = site.ask(&format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    site.stop().await;
}

#[tokio::test]
async fn other_names_for_this_address_are_refused() {
    let site = Site::start(&memory()).await;
    let port = site.address.port();
    let status = async |head: String| site.ask(&head).await.status;
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\nHost: {host}\r\n")).await,
            200,
            "{host}"
        );
    }
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "localhost".into(),
        "localhost:1".into(),
    ] {
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\nHost: {host}\r\n")).await,
            421,
            "{host}"
        );
        let whole = format!("GET http://{host}/ HTTP/1.1\r\nHost: localhost:{port}\r\n");
        assert_eq!(status(whole).await, 421, "{host}");
    }
    assert!((400..500).contains(&status("GET / HTTP/1.1\r\n".into()).await));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nX: {}\r\n",
        "x".repeat(64 << 10)
    );
    assert_eq!(status(many).await, 431);
    site.stop().await;
}

#[tokio::test]
async fn a_back_end_that_fails_is_said_and_nothing_secret_is() {
    let backend = Faulty::around(memory());
    let site = Site::start(&(Arc::clone(&backend) as Arc<dyn Backend>)).await;
    backend.plan(Door::Look, Fault::RequestLost, 1);
    let page = site.get("/").await;
    assert_eq!(page.status, 503);
    assert!(
        page.body.contains("No figures") && page.body.contains("a faulty back end"),
        "{}",
        page.body
    );
    backend.unplan();
    assert_eq!(site.get("/").await.status, 200);
    // An open page is told, and goes on when it is over.
    let mut stream = site.listen("/live").await;
    until(&mut stream, "event: tick").await;
    // So many that what reads the day in the background cannot meet them all.
    backend.plan(Door::Look, Fault::RequestLost, 100);
    until(&mut stream, "event: trouble").await;
    backend.unplan();
    until(&mut stream, "event: tick").await;
    site.stop().await;
}

#[tokio::test]
async fn an_open_page_is_told_what_changed_and_only_that() {
    let backend = memory();
    fill(&backend).await;
    let site = Site::start(&backend).await;
    let mut stream = site.listen("/live?range=15m").await;
    let first = until(&mut stream, "event: tick").await;
    assert!(
        first.starts_with("HTTP/1.1 200") && first.contains("text/event-stream"),
        "{first}"
    );
    assert!(first.contains("data: tiles\n") && first.contains("data: dead\n") && first.contains("26 in 15 min"));
    let client = Client::new(Arc::clone(&backend));
    client.enqueue(echo("one more")).await.unwrap();
    work(&backend, "default").await;
    let next = until(&mut stream, "27 in 15 min").await;
    assert!(!next.contains("data: workers\n"), "{next}");
    site.stop().await;
}

#[tokio::test]
async fn so_many_may_listen_and_only_from_here() {
    let site = Site::start(&memory()).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = site.listen("/live").await;
        until(&mut stream, "event: tick").await;
        streams.push(stream);
    }
    assert_eq!(site.get("/live").await.status, 503);
    assert_eq!(site.get("/").await.status, 200);
    drop(streams);
    // Their places are free as soon as the server notices.
    let freed = async {
        loop {
            let mut stream = site.listen("/live").await;
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            if &start == b"HTTP/1.1 200" {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, freed).await.unwrap();
    let foreign = format!(
        "GET /live HTTP/1.1\r\nHost: {}\r\nSec-Fetch-Site: cross-site\r\n",
        site.address
    );
    assert_eq!(site.ask(&foreign).await.status, 403);
    site.stop().await;
}

#[tokio::test]
async fn a_stop_ends_open_streams() {
    let site = Site::start(&memory()).await;
    let mut stream = site.listen("/live").await;
    until(&mut stream, "event: tick").await;
    site.stop().await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok());
}
