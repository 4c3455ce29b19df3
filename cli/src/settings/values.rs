//! One value: read as what it is to be, or said to be wrong with its source and key.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::keys::{nearest, siblings};
use super::sources::Origins;
use crate::{sizes, times};

/// Problems that are told of; who has more of them has another file.
const MOST: usize = 50;

/// Reads values, and keeps what is wrong with them.
pub(super) struct Reader {
    pub(super) origins: Origins,
    problems: Vec<String>,
    more: usize,
}

impl Reader {
    pub(super) fn new(origins: Origins) -> Self {
        Self {
            origins,
            problems: Vec::new(),
            more: 0,
        }
    }

    /// What was wrong.
    pub(super) fn problems(mut self) -> Vec<String> {
        self.problems.sort();
        if self.more > 0 {
            self.problems.push(format!("and {} more", self.more));
        }
        self.problems
    }

    pub(super) fn say(&mut self, problem: impl FnOnce(&Self) -> String) {
        if self.problems.len() < MOST {
            let problem = problem(self);
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Says what is wrong with the value of `key`.
    pub(super) fn wrong(&mut self, key: &str, value: &Value, problem: &str) {
        self.say(|reader| {
            let (source, names_key) = reader.origins.of(key);
            let shown = show(value);
            if names_key {
                format!("{source} = {shown}: {problem}")
            } else {
                format!("{source}: {key} = {shown}: {problem}")
            }
        });
    }

    /// Says what is wrong with the table at `key`.
    pub(super) fn problem(&mut self, key: &str, problem: &str) {
        self.say(|reader| format!("{}: {key} {problem}", reader.origins.of(key).0));
    }

    /// Says that there is no such setting, and which is the nearest. Its value may be a secret.
    pub(super) fn unknown(&mut self, key: &str) {
        self.say(|reader| {
            let (source, is_variable) = reader.origins.of(key);
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
            if is_variable {
                format!("{source}: this is no setting{suggestion}")
            } else {
                format!("{source}: {key}: this is no setting{suggestion}")
            }
        });
    }

    pub(super) fn table(&mut self, key: &str, value: &Value) -> Option<Map<String, Value>> {
        if let ValueKind::Table(table) = &value.kind {
            return Some(table.clone());
        }
        self.wrong(key, value, "it must be a table");
        None
    }

    pub(super) fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        if let ValueKind::String(text) = &value.kind {
            return Some(text.clone());
        }
        self.wrong(key, value, "it must be text");
        None
    }

    pub(super) fn texts(&mut self, key: &str, value: &Value) -> Option<Vec<String>> {
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

    pub(super) fn count(&mut self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Option<usize> {
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

    pub(super) fn number(&mut self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Option<u32> {
        self.count(key, value, range).and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn address(&mut self, key: &str, value: &Value) -> Option<SocketAddr> {
        let text = self.text(key, value)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.wrong(key, value, "it must be an address with a port, as \"127.0.0.1:7701\"");
        }
        address
    }

    /// A size of at least `least` bytes.
    pub(super) fn bytes(&mut self, key: &str, value: &Value, least: u64) -> Option<u64> {
        let problem = match &value.kind {
            ValueKind::String(text) => match sizes::bytes(text) {
                Ok(bytes) if bytes >= least => return Some(bytes),
                Ok(_) => format!(
                    "it must be at least {}",
                    crate::output::bytes(usize::try_from(least).unwrap_or(usize::MAX))
                ),
                Err(problem) => problem,
            },
            _ => "it must be a size, as \"512MiB\" or \"2GiB\"".to_owned(),
        };
        self.wrong(key, value, &problem);
        None
    }

    pub(super) fn span(&mut self, key: &str, value: &Value) -> Option<Duration> {
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
pub(super) fn show(value: &Value) -> String {
    let text = match &value.kind {
        ValueKind::String(text) => match text.split_once("://") {
            Some((scheme, _)) => format!("\"{scheme}://…\""),
            // A URL that is written wrong.
            None if text.contains('@') => "\"…\"".to_owned(),
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
