//! A private Redis.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::certificates::Authority;
use crate::keeper::{Keeper, free_port};
use crate::process::Process;
use crate::resp::{Reply, ask};
use crate::{must_be, until};

/// A program to use instead of `redis-server`.
const INSTEAD: &str = "MILLHAND_TEST_REDIS";
const LOG: &str = "redis.log";

/// A Redis server that appends every write to a file. It ends with this value, and with the process.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    options: Vec<String>,
    port: u16,
    /// With TLS, where it was asked for.
    tls_port: u16,
    keeper: Keeper,
}

impl Redis {
    /// Starts one. It answers when this returns.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that also listens for TLS, shows the certificate `server` of this authority, and
    /// asks everybody for one of the same authority.
    #[must_use]
    pub fn with_tls(authority: &Authority) -> Self {
        let file = |path: PathBuf| path.display().to_string();
        Self::with(&[
            "--tls-ca-cert-file",
            &file(authority.ca()),
            "--tls-cert-file",
            &file(authority.certificate("server")),
            "--tls-key-file",
            &file(authority.key("server")),
            "--tls-auth-clients",
            "yes",
        ])
    }

    /// Starts one with more options, as on its command line: `["--maxmemory-policy", "allkeys-lru"]`.
    ///
    /// # Panics
    ///
    /// When there is no `redis-server`, or it does not start.
    #[must_use]
    pub fn with(options: &[&str]) -> Self {
        let mut redis = Self {
            process: Process::default(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            port: 0,
            tls_port: 0,
            keeper: Keeper::new("redis"),
        };
        // Somebody else may take the port between the look and the start.
        for _ in 0..3 {
            redis.port = free_port();
            redis.tls_port = free_port();
            if redis.begin() {
                must_be(&redis.version());
                return redis;
            }
        }
        redis.not_started();
    }

    /// Starts the process; whether it answers.
    fn begin(&self) -> bool {
        let port = self.port.to_string();
        let program = std::env::var_os(INSTEAD).unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(&program);
        command
            .args(["--bind", "127.0.0.1", "--port", &port])
            .args(["--save", "", "--appendonly", "yes", "--dir"])
            .arg(self.data())
            .args(&self.options);
        if self.options.iter().any(|option| option.starts_with("--tls-")) {
            command.args(["--tls-port", &self.tls_port.to_string()]);
        }
        std::fs::create_dir_all(self.data()).expect("a folder for Redis");
        let child = self.keeper.spawn(&mut command, LOG);
        self.process.set(child.unwrap_or_else(|error| {
            panic!(
                "{} does not start ({error}): install redis-server, or run scripts/test",
                program.display()
            )
        }));
        let ready = until(Duration::from_secs(30), || {
            let Some(id) = self.process.id() else {
                return Some(false);
            };
            // The process id in its answer tells it from another server on the same port.
            match ask(self.port, &["INFO", "server"]) {
                Ok(Reply::Text(info)) if info.contains(&format!("\r\nprocess_id:{id}\r\n")) => {
                    // Not while it reads its file.
                    matches!(ask(self.port, &["PING"]), Ok(Reply::Text(_))).then_some(true)
                }
                _ => None,
            }
        });
        ready == Some(true)
    }

    fn not_started(&self) -> ! {
        panic!(
            "redis-server did not start on port {}:\n{}",
            self.port,
            self.keeper.log(LOG)
        )
    }

    fn data(&self) -> PathBuf {
        self.keeper.folder().join("data")
    }

    /// Where its files lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// Its port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for TLS, where it was started with it.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// `redis://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it says that it is: `Redis 7.0.15`, `Valkey 8.1.1`.
    ///
    /// # Panics
    ///
    /// When it does not answer, or with no version.
    #[must_use]
    pub fn version(&self) -> String {
        let answer = self.command(&["INFO", "server"]);
        let field = |name: &str| answer.text().lines().find_map(|line| line.strip_prefix(name));
        // Valkey tells a Redis version too: the one that it is compatible with.
        match (field("valkey_version:"), field("redis_version:")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => panic!("no version: {answer:?}"),
        }
    }

    /// Kills it (SIGKILL). It is gone when this returns.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Stops it with grace.
    pub fn stop(&self) {
        self.process.stop(Duration::from_secs(30));
    }

    /// Starts it again on the same port and data; one that runs is killed before.
    pub fn restart(&self) {
        self.process.kill();
        if !self.begin() {
            self.not_started();
        }
    }

    /// Starts it again on the same port, remembering nothing.
    ///
    /// # Panics
    ///
    /// When its data cannot be removed.
    pub fn wipe_and_restart(&self) {
        self.process.kill();
        std::fs::remove_dir_all(self.data()).expect("the data of a Redis that is gone");
        self.restart();
    }

    /// Keeps a copy of what it has written down, for [`Redis::go_back`].
    ///
    /// # Panics
    ///
    /// When its files cannot be copied.
    pub fn keep_copy(&self) {
        let copy = self.keeper.folder().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        let status = Command::new("cp").arg("-r").args([self.data(), copy]).status();
        assert!(status.is_ok_and(|status| status.success()), "a copy of Redis's data");
    }

    /// Starts it again on the same port, with the copy that was kept: it does not know what came after.
    ///
    /// # Panics
    ///
    /// When no copy was kept.
    pub fn go_back(&self) {
        self.process.kill();
        std::fs::remove_dir_all(self.data()).expect("the data of a Redis that is gone");
        std::fs::rename(self.keeper.folder().join("copy"), self.data()).expect("a copy of its data");
        self.restart();
    }

    /// Freezes it (SIGSTOP): connections stay, nobody answers.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Makes it forget everything.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn flush(&self) {
        assert_eq!(self.command(&["FLUSHALL"]), Reply::Text("OK".into()));
    }

    /// How many keys there are, and those that would stay for ever.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn keys(&self) -> (usize, Vec<String>) {
        let (mut cursor, mut count, mut lasting) = ("0".to_owned(), 0, Vec::new());
        loop {
            let answer = self.command(&["SCAN", &cursor, "COUNT", "1000"]);
            let [next, keys] = answer.items() else {
                panic!("no cursor and keys: {answer:?}")
            };
            for key in keys.items() {
                count += 1;
                if self.command(&["PTTL", key.text()]).int() == -1 {
                    lasting.push(key.text().to_owned());
                }
            }
            cursor = next.text().to_owned();
            if cursor == "0" {
                return (count, lasting);
            }
        }
    }

    /// One command, on a connection of its own.
    ///
    /// # Panics
    ///
    /// When it does not answer. A refusal is an answer.
    pub fn command(&self, words: &[&str]) -> Reply {
        ask(self.port, words).unwrap_or_else(|error| panic!("Redis on port {}: {words:?}: {error}", self.port))
    }
}
