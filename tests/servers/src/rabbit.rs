//! A private RabbitMQ.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::certificates::Authority;
use crate::keeper::{Keeper, free_port};
use crate::process::Process;
use crate::{amqp, must_be, until};

/// A folder with `rabbitmq-server` and `rabbitmqctl` to use instead of the installed ones.
const INSTEAD: &str = "MILLHAND_TEST_RABBITMQ";
/// Not the wrappers in `/usr/sbin`: those change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const LOG: &str = "rabbitmq.log";
/// How old a queue is before its node is killed.
const KEPT: Duration = Duration::from_secs(6);
const HELP: &str = "install rabbitmq-server, or run scripts/test";

/// A RabbitMQ node. It ends with this value, and with the process.
#[derive(Debug)]
pub struct Rabbit {
    process: Process,
    /// Erlang's own name server. Left alone, the node would start one that outlives it.
    epmd: Process,
    config: String,
    ports: Ports,
    keeper: Keeper,
}

#[derive(Debug, Default)]
struct Ports {
    amqp: u16,
    /// With TLS, where it was asked for.
    amqps: u16,
    epmd: u16,
    dist: u16,
}

impl Rabbit {
    /// Starts one, which takes some seconds. A client can log in when this returns.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that also listens for TLS, shows the certificate `server` of this authority, and
    /// asks everybody for one of the same authority.
    #[must_use]
    pub fn with_tls(authority: &Authority) -> Self {
        let file = |path: std::path::PathBuf| path.display().to_string();
        Self::with(&[
            ("ssl_options.cacertfile", &file(authority.ca())),
            ("ssl_options.certfile", &file(authority.certificate("server"))),
            ("ssl_options.keyfile", &file(authority.key("server"))),
            ("ssl_options.verify", "verify_peer"),
            ("ssl_options.fail_if_no_peer_cert", "true"),
        ])
    }

    /// Starts one with more lines of `rabbitmq.conf`: `[("consumer_timeout", "60000")]`.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or it does not start.
    #[must_use]
    pub fn with(config: &[(&str, &str)]) -> Self {
        let mut rabbit = Self {
            process: Process::default(),
            epmd: Process::default(),
            config: config.iter().map(|(key, value)| format!("{key} = {value}\n")).collect(),
            ports: Ports::default(),
            keeper: Keeper::new("rabbitmq"),
        };
        // Somebody else may take a port between the look and the start.
        for _ in 0..3 {
            rabbit.ports = Ports {
                amqp: free_port(),
                amqps: free_port(),
                epmd: free_port(),
                dist: free_port(),
            };
            rabbit.write_files();
            rabbit.begin_epmd();
            if rabbit.begin() {
                must_be(&rabbit.version());
                return rabbit;
            }
        }
        rabbit.not_started();
    }

    fn write_files(&self) {
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nvm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 64MB\n{}",
            self.ports.amqp, self.config
        );
        if self.config.contains("ssl_options.") {
            config += &format!("listeners.ssl.1 = 127.0.0.1:{}\n", self.ports.amqps);
        }
        let folder = self.keeper.folder();
        std::fs::write(folder.join("rabbitmq.conf"), config).expect("RabbitMQ's settings");
        std::fs::write(folder.join("plugins"), "[].\n").expect("RabbitMQ's plugins");
    }

    fn begin_epmd(&self) {
        let port = self.ports.epmd.to_string();
        let mut command = Command::new("epmd");
        command.args(["-address", "127.0.0.1", "-port", &port]);
        let child = self.keeper.spawn(&mut command, "epmd.log");
        self.epmd.kill();
        self.epmd
            .set(child.unwrap_or_else(|error| panic!("epmd does not start ({error}): {HELP}")));
    }

    /// Starts the process; whether one can log in.
    fn begin(&self) -> bool {
        let child = self.keeper.spawn(&mut self.program("rabbitmq-server"), LOG);
        self.process
            .set(child.unwrap_or_else(|error| panic!("rabbitmq-server does not start ({error}): {HELP}")));
        let ready = until(Duration::from_secs(120), || {
            if self.process.id().is_none() {
                return Some(false);
            }
            amqp::log_in(self.ports.amqp, &self.name()).is_ok().then_some(true)
        });
        ready == Some(true)
    }

    fn not_started(&self) -> ! {
        panic!(
            "rabbitmq-server did not start on port {}:\n{}",
            self.ports.amqp,
            self.keeper.log(LOG)
        )
    }

    /// What no other node is called: the folder's name.
    fn name(&self) -> String {
        let name = self.keeper.folder().file_name().expect("the folder has a name");
        name.to_string_lossy().into_owned()
    }

    /// One of RabbitMQ's programs, for this node alone.
    fn program(&self, name: &str) -> Command {
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        let folder = self.keeper.folder();
        let programs = std::env::var_os(INSTEAD).unwrap_or_else(|| PROGRAMS.into());
        let mut command = Command::new(Path::new(&programs).join(name));
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .env("RABBITMQ_NODENAME", format!("{}@localhost", self.name()))
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.dist.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", folder.join("none.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("none.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            // The script then becomes the node, and no shell stands between it and our signals.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("-noinput {loopback}"))
            .env("RABBITMQ_CTL_ERL_ARGS", loopback);
        command
    }

    /// Where its files lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// Its port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Its port for TLS, where it was started with it.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.ports.amqps
    }

    /// `amqp://guest:guest@127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.ports.amqp)
    }

    /// What it says that it is: `RabbitMQ 3.10.8`.
    ///
    /// # Panics
    ///
    /// When one cannot log in.
    #[must_use]
    pub fn version(&self) -> String {
        let version = amqp::log_in(self.ports.amqp, &self.name());
        format!("RabbitMQ {}", version.expect("RabbitMQ's greeting"))
    }

    /// Kills it (SIGKILL). It is gone when this returns.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills it when the queues that were there at `declared` outlive that. RabbitMQ writes down late which queues
    /// it has: one that is younger than about 3 s may be gone after a kill, or confirm nothing any more
    /// (`docs/guarantees.md`). Who kills it before tests that.
    pub fn kill_when_queues_are_kept(&self, declared: Instant) {
        std::thread::sleep((declared + KEPT).saturating_duration_since(Instant::now()));
        self.kill();
    }

    /// Stops it with grace.
    pub fn stop(&self) {
        self.process.stop(Duration::from_secs(60));
    }

    /// Starts it again on the same port and data; one that runs is killed before.
    pub fn restart(&self) {
        self.process.kill();
        if !self.begin() {
            self.not_started();
        }
    }

    /// Freezes it (SIGSTOP): connections stay, nobody answers.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// What `rabbitmqctl -q` prints: `["list_queues", "name", "messages"]`. It takes a second or two.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ctl(&self, words: &[&str]) -> String {
        let output = self.program("rabbitmqctl").arg("-q").args(words).output();
        let output = output.unwrap_or_else(|error| panic!("rabbitmqctl does not start ({error}): {HELP}"));
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {words:?}: {}\n{printed}{errors}",
            output.status
        );
        printed.into_owned()
    }
}
