//! The tables: which setting each key is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use config::{Map, Value, ValueKind};
use millhand_broker::BackendUrl;
use millhand_proto::{QueueName, TaskName, limits};
use millhand_worker::CommandKind;

use super::values::{Reader, show};
use super::{Settings, TaskSettings, WorkerSettings};

/// A process that may hold less cannot start.
const LEAST_MEMORY: u64 = 1 << 20;
/// A child that may do more jobs than this need not be replaced for their number.
const MOST_JOBS: usize = 1_000_000_000;

impl Reader {
    pub(super) fn settings(&mut self, merged: &Map<String, Value>, file: Option<PathBuf>) -> Option<Settings> {
        let (mut broker, mut store) = (None, None);
        let mut worker = WorkerSettings::default();
        let mut tasks = BTreeMap::new();
        for (key, value) in merged {
            match key.as_str() {
                "broker" => broker = self.text(key, value),
                "store" => store = self.text(key, value),
                "worker" => self.worker(value, &mut worker),
                "tasks" => self.tasks(value, &mut tasks),
                _ => self.unknown(key),
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
                    None => self.say(|_| error.to_string()),
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
                "threads" => worker.threads = self.count(&key, value, 0..=10_000),
                "processes" => worker.processes = self.count(&key, value, 0..=10_000),
                "grace" => worker.grace = self.span(&key, value).unwrap_or_default(),
                "health" => worker.health = self.address(&key, value),
                "recycle_jobs" => worker.recycle.jobs = self.number(&key, value, 1..=MOST_JOBS),
                "recycle_memory" => worker.recycle.memory = self.bytes(&key, value, LEAST_MEMORY),
                _ => self.unknown(&key),
            }
        }
        if (worker.asyncs, worker.threads, worker.processes) == (0, Some(0), Some(0)) {
            self.say(|reader| {
                format!(
                    "{}: worker.async, worker.threads and worker.processes are all 0: a worker needs a slot",
                    reader.origins.of("worker").0
                )
            });
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
            let task = self.task(&key, &table);
            if let Ok(name) = task_name {
                tasks.insert(name, task);
            }
        }
    }
    fn task(&mut self, task_key: &str, table: &Map<String, Value>) -> TaskSettings {
        let mut task = TaskSettings::default();
        for (name, value) in table {
            let key = format!("{task_key}.{name}");
            match name.as_str() {
                "command" => task.command = self.command(&key, value).unwrap_or_default(),
                "child" => {
                    task.kind = CommandKind::Child;
                    task.command = self.command(&key, value).unwrap_or_default();
                }
                "timeout" => task.timeout = self.limit(&key, value),
                "soft_timeout" => task.soft_timeout = self.limit(&key, value),
                "retries" => task.retries = self.number(&key, value, 0..=1000),
                "crashes" => task.crashes = self.number(&key, value, 1..=1000),
                "slots" => task.slots = self.number(&key, value, 1..=10_000),
                "memory" => task.memory = self.bytes(&key, value, LEAST_MEMORY),
                _ => self.unknown(&key),
            }
        }
        let has = |name| table.contains_key(name);
        match (has("command"), has("child")) {
            (true, true) => self.problem(task_key, "has a command and a child: it is one or the other"),
            (false, false) => self.problem(
                task_key,
                "has no command, as command = [\"wc\", \"-w\"], and no child, as child = [\"python3\", \"tasks.py\"]",
            ),
            _ => {}
        }
        let hard = task.timeout.unwrap_or(limits::PROCESS_HARD);
        if let Some(value) = table.get("soft_timeout")
            && task.soft_timeout.is_some_and(|soft| soft >= hard)
        {
            let problem = format!(
                "it must be shorter than the timeout, {}",
                table
                    .get("timeout")
                    .map_or_else(|| "1h unless it is set".to_owned(), show)
            );
            self.wrong(&format!("{task_key}.soft_timeout"), value, &problem);
        }
        task
    }

    fn command(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
        let words = self.texts(key, value)?;
        if words.first().is_none_or(String::is_empty) {
            self.wrong(key, value, "it must name a program, as [\"wc\", \"-w\"]");
        } else if words.iter().any(|w| w.contains('\0')) {
            self.wrong(key, value, "its words must not hold NUL");
        }
        Some(words)
    }

    fn limit(&mut self, key: &str, value: &Value) -> Option<Duration> {
        let span = self.span(key, value)?;
        if span.is_zero() || span > limits::HORIZON {
            self.wrong(key, value, "it must be more than nothing and at most 366 days");
        }
        Some(span)
    }
}
