//! Where settings stand: a file and the environment; and where each value came from.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use millhand_proto::limits;

use super::SettingsError;

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

pub(super) fn read(path: &Path) -> Result<String, SettingsError> {
    let wrong = |problem: &dyn fmt::Display| SettingsError::one(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(|e| wrong(&e))?;
    if file.metadata().map_err(|e| wrong(&e))?.is_dir() {
        return Err(wrong(&"it is a folder, not a settings file"));
    }
    // A pipe or a device does not tell how long it is.
    let mut bytes = Vec::new();
    file.take(limits::SETTINGS_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| wrong(&e))?;
    // What is longer is something else.
    if bytes.len() > limits::SETTINGS_BYTES {
        let most = limits::SETTINGS_BYTES >> 20;
        return Err(wrong(&format!("it is longer than {most} MiB and no settings file")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong(&"it is no UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

/// The variables that are settings, by key.
pub(super) fn variables(
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, Variable>, SettingsError> {
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
pub(super) struct Origins {
    pub(super) file: String,
    pub(super) variables: HashMap<String, Variable>,
    pub(super) flags: HashMap<String, String>,
}

impl Origins {
    /// The source of `key`, and the key as it is written there.
    pub(super) fn of(&self, key: &str) -> (String, bool) {
        if let Some(flag) = self.flags.get(key) {
            return (flag.clone(), true);
        }
        match self.variables.get(key) {
            Some(variable) => (variable.name.clone(), true),
            None => (self.file.clone(), false),
        }
    }

    pub(super) fn is_variable(&self, key: &str) -> bool {
        !self.flags.contains_key(key) && self.variables.contains_key(key)
    }
}
