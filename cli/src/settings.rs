//! Settings: a file, the environment and flags, in rising order. What is not understood is refused
//! with its source, key and value, and the nearest right key.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use millhand_broker::BackendUrl;
use millhand_proto::{QueueName, TaskName, limits};

use crate::times;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "millhand.toml";
/// A settings file that is longer is something else.
const FILE_BYTES: u64 = 4 << 20;
/// Variables that begin like settings and are none.
const NOT_SETTINGS: [&str; 7] = [
    "MILLHAND_JOB_ID",
    "MILLHAND_ATTEMPT",
    "MILLHAND_TASK",
    "MILLHAND_CHILD",
    "MILLHAND_LONG",
    "MILLHAND_BLESS",
    "MILLHAND_LOG",
];
const TOP_KEYS: [&str; 4] = ["broker", "store", "worker", "tasks"];
const WORKER_KEYS: [&str; 5] = ["queues", "async", "threads", "processes", "grace"];
const TASK_KEYS: [&str; 3] = ["command", "timeout", "retries"];

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
    pub(crate) threads: usize,
    pub(crate) processes: usize,
    pub(crate) grace: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            queues: vec![QueueName::default()],
            asyncs: 100,
            threads: cores,
            processes: cores,
            grace: Duration::from_secs(30),
        }
    }
}

/// `[tasks.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskSettings {
    pub(crate) command: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

/// What flags say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) broker: Option<String>,
    pub(crate) store: Option<String>,
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
        let variables = variables(env)?;
        let named = file
            .as_deref()
            .map_or_else(|| DEFAULT_FILE.to_owned(), |f| f.display().to_string());
        let mut builder = Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
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
        for (key, value) in [("broker", &flags.broker), ("store", &flags.store)] {
            if let Some(value) = value {
                origins.flags.insert(key.to_owned(), format!("--{key}"));
                builder = builder
                    .set_override(key, value.clone())
                    .map_err(|e| SettingsError::one(format!("--{key}: {e}")))?;
            }
        }
        let merged = builder
            .build()
            .and_then(|config| config.collect())
            .map_err(|e| SettingsError::one(format!("{named}: {}", e.to_string().trim_end())))?;
        let mut reader = Reader {
            origins,
            problems: Vec::new(),
        };
        let settings = reader.settings(&merged, file);
        match settings {
            Some(settings) if reader.problems.is_empty() => Ok(settings),
            _ => {
                reader.problems.sort();
                Err(SettingsError(reader.problems))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let wrong = |problem: &dyn fmt::Display| SettingsError::one(format!("{}: {problem}", path.display()));
    let meta = std::fs::metadata(path).map_err(|e| wrong(&e))?;
    if meta.is_dir() {
        return Err(wrong(&"it is a folder, not a settings file"));
    }
    if meta.len() > FILE_BYTES {
        return Err(wrong(&"it is longer than 4 MiB and no settings file"));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(&e))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(&"it is no UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

struct Variable {
    name: String,
    value: String,
}

/// The variables that are settings, by key.
fn variables(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<HashMap<String, Variable>, SettingsError> {
    let mut found = HashMap::new();
    for (name, value) in env {
        let Some(name) = name.to_str() else { continue };
        let Some(key) = name.strip_prefix("MILLHAND_") else {
            continue;
        };
        if NOT_SETTINGS.contains(&name) {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(SettingsError::one(format!("{name}: it is no UTF-8 text")));
        };
        if key.is_empty() || key.contains('.') {
            return Err(SettingsError::one(format!("{name} is no setting")));
        }
        let key = key.to_lowercase().replace("__", ".");
        found.insert(
            key,
            Variable {
                name: name.to_owned(),
                value,
            },
        );
    }
    Ok(found)
}

/// Where a value came from.
struct Origins {
    file: String,
    variables: HashMap<String, Variable>,
    flags: HashMap<String, String>,
}

impl Origins {
    /// The source of `key`, and the key as it is written there.
    fn of(&self, key: &str) -> (String, bool) {
        if let Some(flag) = self.flags.get(key) {
            return (flag.clone(), true);
        }
        match self.variables.get(key) {
            Some(variable) => (variable.name.clone(), true),
            None => (self.file.clone(), false),
        }
    }

    fn is_variable(&self, key: &str) -> bool {
        !self.flags.contains_key(key) && self.variables.contains_key(key)
    }
}

struct Reader {
    origins: Origins,
    problems: Vec<String>,
}

impl Reader {
    /// Says what is wrong with the value of `key`.
    fn wrong(&mut self, key: &str, value: &Value, problem: &str) {
        let (source, names_key) = self.origins.of(key);
        let shown = show(value);
        self.problems.push(if names_key {
            format!("{source} = {shown}: {problem}")
        } else {
            format!("{source}: {key} = {shown}: {problem}")
        });
    }

    /// Says that there is no such setting, and which is the nearest.
    fn unknown(&mut self, key: &str, value: &Value) {
        let (source, is_variable) = self.origins.of(key);
        let nearest = nearest(key);
        let spelled = |key: &str| {
            if is_variable {
                format!("MILLHAND_{}", key.to_uppercase().replace('.', "__"))
            } else {
                key.to_owned()
            }
        };
        let suggestion = match nearest {
            Some(nearest) => format!("; did you mean {}?", spelled(&nearest)),
            None => format!(
                "; there is {}",
                siblings(key).map(|k| spelled(&k)).collect::<Vec<_>>().join(", ")
            ),
        };
        let shown = show(value);
        self.problems.push(if is_variable {
            format!("{source} = {shown}: this is no setting{suggestion}")
        } else {
            format!("{source}: {key} = {shown}: this is no setting{suggestion}")
        });
    }

    fn settings(&mut self, merged: &Map<String, Value>, file: Option<PathBuf>) -> Option<Settings> {
        let (mut broker, mut store) = (None, None);
        let mut worker = WorkerSettings::default();
        let mut tasks = BTreeMap::new();
        for (key, value) in merged {
            match key.as_str() {
                "broker" => broker = self.text(key, value),
                "store" => store = self.text(key, value),
                "worker" => self.worker(value, &mut worker),
                "tasks" => self.tasks(value, &mut tasks),
                _ => self.unknown(key, value),
            }
        }
        let broker = self.back_end(
            broker.as_deref(),
            merged.get("broker"),
            store.as_deref(),
            merged.get("store"),
        );
        Some(Settings {
            broker: broker?,
            worker,
            tasks,
            file,
        })
    }

    /// The back end that broker and store name together.
    fn back_end(
        &mut self,
        broker: Option<&str>,
        broker_value: Option<&Value>,
        store: Option<&str>,
        store_value: Option<&Value>,
    ) -> Option<BackendUrl> {
        let text = match (broker, broker_value) {
            (Some(text), Some(_)) => text,
            (None, Some(_)) => return None,
            _ => "sqlite:millhand.db",
        };
        if store.is_none() && store_value.is_some() {
            return None;
        }
        match BackendUrl::of(text, store) {
            Ok(url) => Some(url),
            Err(error) => {
                let (key, value) = match (error.is_of_store(), store_value) {
                    (true, Some(value)) => ("store", Some(value)),
                    _ => ("broker", broker_value),
                };
                match value {
                    Some(value) => self.wrong(key, value, error.problem()),
                    None => self.problems.push(error.to_string()),
                }
                None
            }
        }
    }

    fn worker(&mut self, value: &Value, worker: &mut WorkerSettings) {
        let Some(table) = self.table("worker", value) else {
            return;
        };
        for (name, value) in &table {
            let key = format!("worker.{name}");
            match name.as_str() {
                "queues" => worker.queues = self.queues(&key, value).unwrap_or_default(),
                "async" => worker.asyncs = self.count(&key, value, 0..=10_000).unwrap_or(1),
                "threads" => worker.threads = self.count(&key, value, 0..=10_000).unwrap_or(1),
                "processes" => worker.processes = self.count(&key, value, 0..=10_000).unwrap_or(1),
                "grace" => worker.grace = self.span(&key, value).unwrap_or_default(),
                _ => self.unknown(&key, value),
            }
        }
        if worker.asyncs + worker.threads + worker.processes == 0 {
            let (source, _) = self.origins.of("worker");
            self.problems.push(format!(
                "{source}: worker.async, worker.threads and worker.processes are all 0: a worker needs a slot"
            ));
        }
    }

    fn queues(&mut self, key: &str, value: &Value) -> Option<Vec<QueueName>> {
        let names = match &value.kind {
            ValueKind::String(text) if self.origins.is_variable(key) => {
                text.split(',').map(|s| s.trim().to_owned()).collect()
            }
            _ => self.texts(key, value)?,
        };
        let mut queues = Vec::new();
        for name in names {
            match QueueName::new(&name) {
                Ok(queue) if queues.contains(&queue) => {
                    self.wrong(key, value, &format!("{name:?} stands twice"));
                }
                Ok(queue) => queues.push(queue),
                Err(error) => self.wrong(key, value, &error.to_string()),
            }
        }
        if queues.is_empty() {
            self.wrong(key, value, "a worker needs at least one queue");
        }
        Some(queues)
    }

    fn tasks(&mut self, value: &Value, tasks: &mut BTreeMap<TaskName, TaskSettings>) {
        let Some(table) = self.table("tasks", value) else {
            return;
        };
        for (name, value) in &table {
            let key = format!("tasks.{name}");
            let task_name = TaskName::new(name);
            if let Err(error) = &task_name {
                self.wrong(&key, value, &error.to_string());
                continue;
            }
            let Some(table) = self.table(&key, value) else { continue };
            let mut task = TaskSettings {
                command: Vec::new(),
                timeout: None,
                retries: None,
            };
            for (name, value) in &table {
                let key = format!("{key}.{name}");
                match name.as_str() {
                    "command" => match self.texts(&key, value) {
                        Some(words) if words.first().is_none_or(String::is_empty) => {
                            self.wrong(&key, value, "it must name a program, as [\"wc\", \"-w\"]");
                        }
                        Some(words) if words.iter().any(|w| w.contains('\0')) => {
                            self.wrong(&key, value, "its words must not hold NUL");
                        }
                        Some(words) => task.command = words,
                        None => {}
                    },
                    "timeout" => match self.span(&key, value) {
                        Some(span) if span.is_zero() || span > limits::HORIZON => {
                            self.wrong(&key, value, "it must be more than nothing and at most 366 days");
                        }
                        span => task.timeout = span,
                    },
                    "retries" => {
                        task.retries = self.count(&key, value, 0..=1000).and_then(|n| u32::try_from(n).ok());
                    }
                    _ => self.unknown(&key, value),
                }
            }
            if !table.contains_key("command") {
                let (source, _) = self.origins.of(&key);
                self.problems
                    .push(format!("{source}: {key} has no command, as command = [\"wc\", \"-w\"]"));
            }
            if let Ok(name) = task_name {
                tasks.insert(name, task);
            }
        }
    }

    fn table(&mut self, key: &str, value: &Value) -> Option<Map<String, Value>> {
        if let ValueKind::Table(table) = &value.kind {
            return Some(table.clone());
        }
        self.wrong(key, value, "it must be a table");
        None
    }

    fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        if let ValueKind::String(text) = &value.kind {
            return Some(text.clone());
        }
        self.wrong(key, value, "it must be text");
        None
    }

    fn texts(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        let texts = match &value.kind {
            ValueKind::Array(items) => items
                .iter()
                .map(|item| match &item.kind {
                    ValueKind::String(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            // A variable holds text only: there a list is written as JSON.
            ValueKind::String(text) if self.origins.is_variable(key) => serde_json::from_str(text).ok(),
            _ => None,
        };
        if texts.is_none() {
            self.wrong(key, value, "it must be a list of text, as [\"a\", \"b\"]");
        }
        texts
    }

    fn count(&mut self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Option<usize> {
        let number = match &value.kind {
            ValueKind::I64(number) => usize::try_from(*number).ok(),
            ValueKind::U64(number) => usize::try_from(*number).ok(),
            ValueKind::String(text) if self.origins.is_variable(key) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong(
                key,
                value,
                &format!("it must be a whole number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    fn span(&mut self, key: &str, value: &Value) -> Option<Duration> {
        let problem = match &value.kind {
            ValueKind::String(text) => match times::duration(text) {
                Ok(span) => return Some(span),
                Err(problem) => problem,
            },
            _ => "it must be a duration, as \"30s\" or \"5m\"".to_owned(),
        };
        self.wrong(key, value, &problem);
        None
    }
}

/// A value for an error: short, on one line, without what may be a password.
fn show(value: &Value) -> String {
    let text = match &value.kind {
        ValueKind::String(text) => match text.split_once("://") {
            Some((scheme, _)) => format!("\"{scheme}://…\""),
            None => format!("{text:?}"),
        },
        ValueKind::Table(table) => {
            let mut keys: Vec<_> = table.keys().cloned().collect();
            keys.sort();
            format!("{{ {} }}", keys.join(", "))
        }
        ValueKind::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        _ => value.to_string(),
    };
    if text.chars().count() > 80 {
        text.chars().take(79).chain(['…']).collect()
    } else {
        text
    }
}

/// The settings that stand where `key` was looked for.
fn siblings(key: &str) -> impl Iterator<Item = String> {
    let parts: Vec<_> = key.split('.').collect();
    let (prefix, names): (String, &[&str]) = match parts.as_slice() {
        ["worker", ..] => ("worker.".into(), &WORKER_KEYS),
        ["tasks", task, ..] => (format!("tasks.{task}."), &TASK_KEYS),
        _ => (String::new(), &TOP_KEYS),
    };
    names.iter().map(move |name| format!("{prefix}{name}"))
}

/// The nearest right key, when it is near enough to be meant.
fn nearest(key: &str) -> Option<String> {
    let all = siblings(key).chain(WORKER_KEYS.iter().map(|k| format!("worker.{k}")));
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    all.map(|right| {
        (
            distance(key, &right).min(1 + distance(&last(key), &last(&right))),
            right,
        )
    })
    .min()
    .filter(|(distance, right)| *distance <= (last(right).len() / 3).max(2))
    .map(|(_, right)| right)
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings from a file with this text, these variables and these flags.
    fn load(text: &str, env: &[(&str, &str)], broker: Option<&str>) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, text).unwrap();
        let flags = Flags {
            config: Some(path),
            broker: broker.map(str::to_owned),
            store: None,
        };
        let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        Settings::from(&flags, env).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn the_example_of_the_readme_is_understood() {
        let settings = load(
            r#"
                broker = "sqlite:millhand.db"
                store  = "sqlite:millhand.db"
                [worker]
                queues = ["default", "slow"]
                async = 100
                threads = 2
                processes = 2
                grace = "5s"
                [tasks.wordcount]
                command = ["wc", "-w"]
                timeout = "30s"
                retries = 3
                [tasks."billing.send"]
                command = ["true"]
            "#,
            &[],
            None,
        );
        let settings = settings.unwrap();
        assert_eq!(settings.broker, BackendUrl::Sqlite("millhand.db".into()));
        assert_eq!(
            (settings.worker.asyncs, settings.worker.grace),
            (100, Duration::from_secs(5))
        );
        assert_eq!(settings.worker.queues.len(), 2);
        let task = &settings.tasks["wordcount"];
        assert_eq!(task.command, ["wc", "-w"]);
        assert_eq!((task.timeout, task.retries), (Some(Duration::from_secs(30)), Some(3)));
        assert!(settings.tasks.contains_key("billing.send"));
    }

    #[test]
    fn flags_rule_over_the_environment_and_that_over_the_file() {
        let file = "broker = \"sqlite:file.db\"\n[worker]\nprocesses = 1\nthreads = 1";
        let env = [
            ("MILLHAND_BROKER", "sqlite:env.db"),
            ("MILLHAND_WORKER__PROCESSES", "7"),
            ("MILLHAND_WORKER__QUEUES", "a, b"),
            ("MILLHAND_JOB_ID", "x"),
            ("MILLHAND_LOG", "debug"),
            ("OTHER", "x"),
        ];
        let settings = load(file, &env, None).unwrap();
        assert_eq!(settings.broker, BackendUrl::Sqlite("env.db".into()));
        assert_eq!((settings.worker.processes, settings.worker.threads), (7, 1));
        assert_eq!(settings.worker.queues, ["a", "b"].map(|q| QueueName::new(q).unwrap()));
        let settings = load(file, &env, Some("sqlite:flag.db")).unwrap();
        assert_eq!(settings.broker, BackendUrl::Sqlite("flag.db".into()));
        assert_eq!(load("", &[], None).unwrap().worker, WorkerSettings::default());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_source_key_value_and_the_nearest_right_key() {
        for (text, want) in [
            (
                "brokr = \"memory:\"",
                "/m.toml: brokr = \"memory:\": this is no setting; did you mean broker?",
            ),
            (
                "[worker]\nproceses = 4",
                "/m.toml: worker.proceses = 4: this is no setting; did you mean worker.processes?",
            ),
            (
                "processes = 4",
                "/m.toml: processes = 4: this is no setting; did you mean worker.processes?",
            ),
            (
                "[tasks.a]\ncommand = [\"a\"]\ntimout = \"1s\"",
                "/m.toml: tasks.a.timout = \"1s\": this is no setting; did you mean tasks.a.timeout?",
            ),
            (
                "colour = 1",
                "/m.toml: colour = 1: this is no setting; there is broker, store, worker, tasks",
            ),
            (
                "[worker]\nasync = \"many\"",
                "/m.toml: worker.async = \"many\": it must be a whole number from 0 to 10000",
            ),
            (
                "[worker]\nasync = \"4\"",
                "/m.toml: worker.async = \"4\": it must be a whole number from 0 to 10000",
            ),
            (
                "[worker]\nthreads = -1",
                "/m.toml: worker.threads = -1: it must be a whole number from 0 to 10000",
            ),
            (
                "[worker]\nthreads = 10001",
                "/m.toml: worker.threads = 10001: it must be a whole number from 0 to 10000",
            ),
            (
                "[worker]\nasync = 0\nthreads = 0\nprocesses = 0",
                "/m.toml: worker.async, worker.threads and worker.processes are all 0: a worker needs a slot",
            ),
            (
                "[worker]\nqueues = []",
                "/m.toml: worker.queues = []: a worker needs at least one queue",
            ),
            (
                "[worker]\nqueues = [\"a\", \"a\"]",
                "/m.toml: worker.queues = [\"a\", \"a\"]: \"a\" stands twice",
            ),
            (
                "[worker]\ngrace = 30",
                "/m.toml: worker.grace = 30: it must be a duration, as \"30s\" or \"5m\"",
            ),
            (
                "[worker]\ngrace = \"soon\"",
                "/m.toml: worker.grace = \"soon\": \"soon\" is no duration: write 500ms, 30s, 5m, 2h, 1d or 1h30m",
            ),
            ("worker = 3", "/m.toml: worker = 3: it must be a table"),
            (
                "[tasks.a]\nretries = 1",
                "/m.toml: tasks.a has no command, as command = [\"wc\", \"-w\"]",
            ),
            (
                "[tasks.a]\ncommand = \"wc -w\"",
                "/m.toml: tasks.a.command = \"wc -w\": it must be a list of text, as [\"a\", \"b\"]",
            ),
            (
                "[tasks.a]\ncommand = []",
                "/m.toml: tasks.a.command = []: it must name a program, as [\"wc\", \"-w\"]",
            ),
            (
                "[tasks.a]\ncommand = [\"a\"]\nretries = 1001",
                "/m.toml: tasks.a.retries = 1001: it must be a whole number from 0 to 1000",
            ),
            (
                "[tasks.a]\ncommand = [\"a\"]\ntimeout = \"0s\"",
                "/m.toml: tasks.a.timeout = \"0s\": it must be more than nothing and at most 366 days",
            ),
            ("broker = 5", "/m.toml: broker = 5: it must be text"),
            (
                "broker = \"x.db\"",
                "/m.toml: broker = \"x.db\": it must be sqlite:FILE or memory:, \
                 or amqp://HOST with a store at redis://HOST",
            ),
            (
                "store = \"sqlite:other.db\"",
                "/m.toml: store = \"sqlite:other.db\": it must be the same as the broker, or not be set",
            ),
            (
                "broker = \"amqp://ana:canary@h/\"",
                "/m.toml: broker = \"amqp://…\": RabbitMQ needs a store beside it: redis://HOST",
            ),
            (
                "broker = \"amqp://h/?ns=a\"\nstore = \"redis://:canary@h/?ns=b\"",
                "/m.toml: store = \"redis://…\": its namespace is \"b\", \
                 and the broker's is \"a\": ns must be the same in both",
            ),
            (
                "store = \"redis://h/\"",
                "/m.toml: store = \"redis://…\": Redis is the store of RabbitMQ: the broker must be amqp://HOST",
            ),
        ] {
            assert_eq!(load(text, &[], None).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn a_bad_variable_or_flag_is_named() {
        for (name, value, want) in [
            (
                "MILLHAND_WORKER__PROCESES",
                "2",
                "MILLHAND_WORKER__PROCESES = \"2\": this is no setting; did you mean MILLHAND_WORKER__PROCESSES?",
            ),
            (
                "MILLHAND_WORKER_PROCESSES",
                "2",
                "MILLHAND_WORKER_PROCESSES = \"2\": this is no setting; did you mean MILLHAND_WORKER__PROCESSES?",
            ),
            (
                "MILLHAND_WORKER__PROCESSES",
                "",
                "MILLHAND_WORKER__PROCESSES = \"\": it must be a whole number from 0 to 10000",
            ),
            (
                "MILLHAND_BROKER",
                "http://u:canary@h",
                "MILLHAND_BROKER = \"http://…\": it must be sqlite:FILE or memory:, \
                 or amqp://HOST with a store at redis://HOST",
            ),
        ] {
            assert_eq!(load("", &[(name, value)], None).unwrap_err(), want);
        }
        let flag = load("", &[], Some("x")).unwrap_err();
        assert_eq!(
            flag,
            "--broker = \"x\": it must be sqlite:FILE or memory:, \
                 or amqp://HOST with a store at redis://HOST"
        );
        let both = load("a = 1\nb = 2", &[], None).unwrap_err();
        assert_eq!(both.lines().count(), 2, "{both}");
    }

    #[test]
    fn a_file_that_is_no_settings_file_is_refused_with_its_name() {
        let broken = load("broker = \n[[", &[], None).unwrap_err();
        assert!(broken.starts_with("/m.toml: ") && broken.contains("line 1"), "{broken}");
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("missing.toml")] {
            let flags = Flags {
                config: Some(path.clone()),
                ..Flags::default()
            };
            let error = Settings::from(&flags, []).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }
}
