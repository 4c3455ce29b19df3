//! Settings: a file, the environment and flags, in rising order. What is not understood is refused
//! with its source, key and value, and the nearest right key.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod keys;
mod sources;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat, Map, Source};
use millhand_broker::BackendUrl;
use millhand_proto::{QueueName, TaskName, limits};
use millhand_worker::{CommandKind, Recycle, Slots};

use self::sources::{Origins, read, variables};
use self::values::Reader;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "millhand.toml";

/// All settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) broker: BackendUrl,
    pub(crate) worker: WorkerSettings,
    pub(crate) tasks: BTreeMap<TaskName, TaskSettings>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerSettings {
    pub(crate) queues: Vec<QueueName>,
    pub(crate) asyncs: usize,
    /// Where it is not set, there are as many as cores.
    pub(crate) threads: Option<usize>,
    /// The same.
    pub(crate) processes: Option<usize>,
    pub(crate) grace: Duration,
    pub(crate) recycle: Recycle,
    pub(crate) health: Option<SocketAddr>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            queues: vec![QueueName::default()],
            asyncs: limits::ASYNC_SLOTS,
            threads: None,
            processes: None,
            grace: limits::GRACE,
            recycle: Recycle::default(),
            health: None,
        }
    }
}

impl WorkerSettings {
    /// How many jobs may run at once, with what is not set.
    pub(crate) fn slots(&self) -> Slots {
        let cores = Slots::default();
        Slots {
            asyncs: self.asyncs,
            threads: self.threads.unwrap_or(cores.threads),
            processes: self.processes.unwrap_or(cores.processes),
        }
    }
}

/// `[tasks.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskSettings {
    /// `command` or `child`.
    pub(crate) command: Vec<String>,
    pub(crate) kind: CommandKind,
    pub(crate) timeout: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) crashes: Option<u32>,
    pub(crate) slots: Option<u32>,
    pub(crate) memory: Option<u64>,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            kind: CommandKind::Command,
            timeout: None,
            soft_timeout: None,
            retries: None,
            crashes: None,
            slots: None,
            memory: None,
        }
    }
}

/// What flags say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) broker: Option<String>,
    pub(crate) store: Option<String>,
    /// Of `millhand worker`.
    pub(crate) health: Option<String>,
}

/// Settings that cannot be used: every problem, one a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SettingsError(Vec<String>);

impl SettingsError {
    fn one(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// What the parser says, without the line of the file that it shows, which may hold a password.
fn without_source(said: &str) -> String {
    let is_source = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .starts_with('|')
    };
    let lines: Vec<&str> = said.trim_end().lines().filter(|line| !is_source(line)).collect();
    lines.join(": ")
}

impl Settings {
    /// Reads the settings of this process.
    pub(crate) fn load(flags: &Flags) -> Result<Self, SettingsError> {
        Self::from(flags, std::env::vars_os())
    }

    fn from(flags: &Flags, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, SettingsError> {
        let (file, text) = match &flags.config {
            Some(path) => (Some(path.clone()), read(path)?),
            None if Path::new(DEFAULT_FILE).exists() => {
                let path = PathBuf::from(DEFAULT_FILE);
                let text = read(&path)?;
                (Some(path), text)
            }
            None => (None, String::new()),
        };
        Self::of(file, &text, flags, env)
    }

    /// Reads settings from the text of a file.
    fn of(
        file: Option<PathBuf>,
        text: &str,
        flags: &Flags,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let variables = variables(env)?;
        let named = file
            .as_deref()
            .map_or_else(|| DEFAULT_FILE.to_owned(), |f| f.display().to_string());
        let mut builder = Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .add_source(
                Environment::with_prefix("MILLHAND")
                    .prefix_separator("_")
                    .separator("__")
                    .source(Some(
                        variables
                            .values()
                            .map(|v| (v.name.clone(), v.value.clone()))
                            .collect::<Map<_, _>>(),
                    )),
            );
        let mut origins = Origins {
            file: named.clone(),
            variables,
            flags: HashMap::new(),
        };
        for (key, flag, value) in [
            ("broker", "--broker", &flags.broker),
            ("store", "--store", &flags.store),
            ("worker.health", "--health", &flags.health),
        ] {
            if let Some(value) = value {
                origins.flags.insert(key.to_owned(), flag.to_owned());
                builder = builder
                    .set_override(key, value.clone())
                    .map_err(|e| SettingsError::one(format!("{flag}: {e}")))?;
            }
        }
        let merged = builder
            .build()
            .and_then(|config| config.collect())
            .map_err(|e| SettingsError::one(format!("{named}: {}", without_source(&e.to_string()))))?;
        let mut reader = Reader::new(origins);
        let settings = reader.settings(&merged, file);
        let problems = reader.problems();
        settings.filter(|_| problems.is_empty()).ok_or(SettingsError(problems))
    }
}
