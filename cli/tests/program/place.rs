//! A folder with settings, and the program run in it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const TASKS: &str = r#"
[worker]
async = 4
threads = 1
processes = 2
grace = "1s"
[tasks.wordcount]
command = ["wc", "-w"]
timeout = "30s"
[tasks.fail]
command = ["sh", "-c", "echo 'it broke' >&2; exit 3"]
retries = 0
[tasks.slow]
command = ["sleep", "60"]
"#;

/// Far longer than what is waited for takes.
const SOON: Duration = Duration::from_secs(60);

/// A folder with settings in which the program runs.
pub struct Place(tempfile::TempDir);

/// A worker that is stopped when the test ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        // It ends within its grace and a few seconds, whatever happens.
        let _ = self.0.wait();
    }
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("millhand.toml"), TASKS).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millhand"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MILLHAND_") || name == "CLICOLOR_FORCE" {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, checks the exit code, answers standard output and standard error.
    pub fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "millhand {args:?}\n{out}\n{err}");
        (out, err)
    }

    pub fn worker(&self) -> Running {
        Running(self.command(&["worker"]).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// Looks again and again: what another process does to files and processes is no event here.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < SOON, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What a program says, line by line. It is read on a thread of its own: the program never waits for a reader,
/// and a test not for ever for a line.
pub struct Lines {
    come: Receiver<String>,
    said: String,
}

impl Lines {
    pub fn of(from: impl Read + Send + 'static) -> Self {
        let (sender, come) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                // Where nobody wants it any more, it is read all the same.
                let _ = sender.send(line.unwrap());
            }
        });
        Self {
            come,
            said: String::new(),
        }
    }

    /// What stands between these two in the first line that holds both; an empty `after` is the line's end.
    pub fn between(&mut self, before: &str, after: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let line = self.come.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|why| panic!("no line with {before:?} ({why}):\n{}", self.said));
            self.said += &line;
            self.said.push('\n');
            let rest = line.split_once(before).map(|(_, rest)| rest);
            let found = rest.and_then(|rest| match after {
                "" => Some(rest),
                _ => rest.split_once(after).map(|(found, _)| found),
            });
            if let Some(found) = found {
                return found.trim().to_owned();
            }
        }
    }

    /// All that it said until it ended.
    pub fn all(mut self) -> String {
        while let Ok(line) = self.come.recv_timeout(SOON) {
            self.said += &line;
            self.said.push('\n');
        }
        self.said
    }
}

/// A page that is served at `address`, with its head.
pub fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}
