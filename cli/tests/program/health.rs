//! A worker that answers over HTTP, and the command that asks it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use crate::place::{Lines, Place, Running, json, signal, until};

/// A run waits for the file `go`.
const TASKS: &str = r#"
[worker]
processes = 1
grace = "30s"
[tasks.wait]
command = ["sh", "-c", "echo run >>runs; while [ ! -e go ]; do sleep 0.02; done; echo 7"]
"#;

fn place(tasks: &str) -> Place {
    let place = Place::new();
    fs::write(place.path().join("millhand.toml"), tasks).unwrap();
    place
}

/// A worker that answers at any port, and where.
fn answering(place: &Place) -> (Running, String) {
    let mut command = place.command(&["worker", "--health", "127.0.0.1:0"]);
    let mut worker = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = Lines::of(worker.0.stderr.take().unwrap());
    let address = log.between("answers /live, /ready and /startup address=", "");
    (worker, address)
}

#[test]
fn a_worker_is_asked_how_it_is_until_it_ends() {
    let place = place(TASKS);
    let (mut worker, at) = answering(&place);
    let ask = |what| place.run(&["worker", "health", what, "--at", &at]).status.code();
    until("it to be ready", || ask("ready") == Some(0));
    assert_eq!((ask("live"), ask("startup")), (Some(0), Some(0)));
    let (_, note) = place.expect(0, &["worker", "health", "--at", &at]);
    assert_eq!(note, "ready\n");

    place.expect(0, &["enqueue", "wait"]);
    until("the job to run", || place.path().join("runs").exists());
    signal(&worker.0, "-TERM");
    until("it to stop", || ask("ready") == Some(1));
    let (_, error) = place.expect(1, &["worker", "health", "--at", &at]);
    assert!(error.contains("stopping: it takes no more jobs"), "{error}");
    let (document, _) = place.expect(1, &["worker", "health", "--at", &at, "--json"]);
    let document = json(&document);
    assert_eq!(document["schema"], "millhand.worker.health/1");
    assert_eq!(
        (&document["ok"], document["reasons"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
    assert_eq!((ask("live"), ask("startup")), (Some(0), Some(0)));

    fs::write(place.path().join("go"), "").unwrap();
    until("the worker to end", || worker.0.try_wait().unwrap().is_some());
    let (_, error) = place.expect(5, &["worker", "health", "--at", &at]);
    assert!(error.contains(&at), "{error}");
}

#[test]
fn where_a_worker_answers_stands_in_the_settings() {
    let silent = place(TASKS);
    let (_, error) = silent.expect(2, &["worker", "health"]);
    assert!(error.contains("--at"), "{error}");
    // Somebody else has the port, and is no worker.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let place = place(&TASKS.replace("[worker]", &format!("[worker]\nhealth = \"{at}\"")));
    place.expect(0, &["worker", "--check"]);
    let (_, error) = place.expect(1, &["worker"]);
    assert!(error.contains(&format!("cannot answer how it is at {at}")), "{error}");
    assert!(
        error.contains("another program listens there; --health 127.0.0.1:0"),
        "{error}"
    );
    // An address that is kept for documents (RFC 5737), and so no machine's.
    let (_, error) = place.expect(1, &["worker", "--health", "192.0.2.1:7701"]);
    assert!(
        error.contains("192.0.2.1 is no address of this machine; --health 127.0.0.1:7701"),
        "{error}"
    );
    let other = std::thread::spawn(move || {
        let (mut stream, _) = taken.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // All that was asked: who closes with something unread resets the connection, and the answer may be lost.
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        stream.write_all(b"220 mail.example.com ESMTP\r\n\r\n").unwrap();
    });
    let (_, error) = place.expect(5, &["worker", "health"]);
    assert!(error.contains("it is no worker of Millhand"), "{error}");
    other.join().unwrap();
}
