//! The tables: which setting each key is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Map, Value, ValueKind};
use millhand_broker::BackendUrl;
use millhand_proto::{QueueName, TaskName, limits};

use super::values::Reader;
use super::{Settings, TaskSettings, WorkerSettings};

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
}
