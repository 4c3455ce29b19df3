use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use millhand_broker::WorkerHealth;
use tokio::runtime::Runtime;

use super::super::SILENT;
use super::*;

/// Far longer than what is waited for takes.
const SOON: Duration = Duration::from_secs(60);

/// A board and who answers from it, on a thread of their own as a worker's loop has.
struct Answering {
    board: Board,
    address: SocketAddr,
    _runtime: Runtime,
}

fn answering() -> Answering {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let board = Board::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    runtime.block_on(answer_at(any, &board)).unwrap();
    let address = board.reader().address().unwrap();
    assert_ne!(address.port(), 0);
    Answering {
        board,
        address,
        _runtime: runtime,
    }
}

impl Answering {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// All that comes back for these bytes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: worker\r\n\r\n").as_bytes())
    }

    fn status(&self, path: &str) -> u16 {
        let answer = self.ask("GET", path);
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap()
    }

    fn says(&self, reasons: &[&str]) {
        let not_ready = reasons.iter().map(|&reason| reason.to_owned()).collect();
        self.board.say(WorkerHealth {
            not_ready,
            ..WorkerHealth::default()
        });
    }

    fn is_well(&self) {
        assert_eq!(self.status("/live"), 200);
    }
}

#[test]
fn a_worker_is_live_from_the_first_moment_and_started_for_ever_once_it_was_ready() {
    let worker = answering();
    let states = || ["/live", "/ready", "/startup"].map(|path| worker.status(path));
    assert_eq!(states(), [200, 503, 503]);
    assert!(worker.ask("GET", "/startup").contains("it has not started yet"));
    worker.says(&["no \"beat\""]);
    assert_eq!(states(), [200, 503, 503]);
    worker.says(&[]);
    assert_eq!(states(), [200, 200, 200]);
    worker.says(&["no \"beat\"", "stopping"]);
    assert_eq!(states(), [200, 503, 200]);
    let answer = worker.ask("GET", "/ready");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, "{\"ok\":false,\"reasons\":[\"no \\\"beat\\\"\",\"stopping\"]}\n");
    assert!(
        worker
            .ask("GET", "/startup")
            .ends_with("{\"ok\":true,\"reasons\":[]}\n")
    );
}

#[test]
fn a_loop_that_does_not_move_is_not_live() {
    let worker = answering();
    worker.says(&[]);
    worker.is_well();
    let Some(at) = Instant::now().checked_sub(SILENT * 2) else {
        return;
    };
    worker.board.0.send_modify(|said| said.at = Some(at));
    assert_eq!(worker.status("/live"), 503);
    assert!(worker.ask("GET", "/live").contains("its loop does not move, for 30 s"));
    assert_eq!(worker.status("/ready"), 503);
    assert_eq!(worker.status("/startup"), 200);
    worker.says(&[]);
    worker.is_well();
}

#[test]
fn what_is_not_there_is_not_found_and_nothing_can_be_written() {
    let worker = answering();
    for path in ["/", "/live/", "/Live", "/ready/x", "/metrics", "/..%2flive"] {
        assert_eq!(worker.status(path), 404, "{path}");
    }
    assert_eq!(worker.status("/live?verbose"), 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = worker.ask(method, "/live");
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{method}: {answer}");
    }
    let answer = worker.ask("HEAD", "/live");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert!(worker.raw(b"GET /live HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
}

#[test]
fn who_speaks_no_http_is_refused() {
    let worker = answering();
    let long = [b"GET /live HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 1 << 20]].concat();
    let many = [
        b"GET /live HTTP/1.1\r\n".as_slice(),
        &b"a: b\r\n".repeat(1 << 17),
        b"\r\n",
    ]
    .concat();
    let line = [b"GET /".as_slice(), &[b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    for bad in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".as_slice(),
        b"AMQP\x00\x00\x09\x01\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /live HTTP/9.9\r\n\r\n",
        b"POST /live HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        &long,
        &many,
        &line,
    ] {
        let answer = worker.raw(bad);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        worker.is_well();
    }
}

/// Whether the other side closes it.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn who_sends_slowly_is_cut_off_and_keeps_nobody_waiting() {
    let worker = answering();
    let mut slow = worker.connect();
    let mut silent = worker.connect();
    let mut half = worker.connect();
    half.write_all(b"POST /live HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nx")
        .unwrap();
    let began = Instant::now();
    slow.write_all(b"GET /live HTTP/1.1\r\n").unwrap();
    while slow.write_all(b"x").is_ok() {
        assert!(began.elapsed() < SOON, "it is heard for ever");
        worker.is_well();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() > limits::HEALTH_CONNECTION / 2, "{:?}", began.elapsed());
    assert!(is_closed(&mut silent));
    let mut answer = String::new();
    let _ = half.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn many_idle_connections_keep_nobody_out_and_most_are_ended_at_once() {
    let worker = answering();
    let mut idle: Vec<TcpStream> = Vec::new();
    // Their sockets on this side stay open, and a process may often have no more than 1,024 files.
    for n in 0..4 * limits::HEALTH_CONNECTIONS {
        idle.push(worker.connect());
        if (n + 1) % limits::HEALTH_CONNECTIONS == 0 {
            let asked = Instant::now();
            worker.is_well();
            println!("beside {} idle connections: {:?}", n + 1, asked.elapsed());
        }
    }
    worker.is_well();
    // All were taken before that one, and each beyond the number that there may be ended the oldest.
    let open = idle.iter_mut().filter_map(|stream| {
        stream.set_nonblocking(true).unwrap();
        (!is_closed(stream)).then_some(())
    });
    let open = open.count();
    assert!(open <= limits::HEALTH_CONNECTIONS, "{open} of {} are open", idle.len());
}

#[test]
fn one_connection_more_than_there_may_be_ends_the_oldest() {
    let ended = |others: usize| {
        let worker = answering();
        let mut oldest = worker.connect();
        let _idle: Vec<TcpStream> = (0..others - 1).map(|_| worker.connect()).collect();
        // All are taken when this one, the last, is answered.
        worker.is_well();
        let _ = oldest.write_all(b"GET /live HTTP/1.1\r\nHost: worker\r\n\r\n");
        is_closed(&mut oldest)
    };
    assert!(!ended(limits::HEALTH_CONNECTIONS - 1));
    assert!(ended(limits::HEALTH_CONNECTIONS));
}
