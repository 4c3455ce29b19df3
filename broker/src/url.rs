//! Back ends by name: `sqlite:millhand.db`, `memory:`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Result;
use crate::memory::Memory;
use crate::sqlite::Sqlite;

/// A URL that names no back end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} names no back end: {problem}")]
pub struct UrlError {
    shown: String,
    problem: &'static str,
}

/// Where jobs and records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendUrl {
    /// In this process only.
    Memory,
    /// In one file.
    Sqlite(PathBuf),
}

impl std::str::FromStr for BackendUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> std::result::Result<Self, UrlError> {
        // A URL may carry a password: show the scheme only where there is an authority.
        let shown = match text.split_once("://") {
            Some((scheme, _)) => format!("{}://…", scheme.chars().take(20).collect::<String>()),
            None => text.chars().take(200).collect(),
        };
        let err = |problem| UrlError {
            shown: shown.clone(),
            problem,
        };
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("memory", _)) => Err(err("nothing may follow memory:")),
            Some(("sqlite", path)) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                match path {
                    "" => Err(err("a file must follow sqlite:")),
                    ":memory:" => Err(err("use memory: for jobs that no file holds")),
                    _ if path.contains('\0') => Err(err("a file name holds no NUL")),
                    _ => Ok(Self::Sqlite(path.into())),
                }
            }
            Some(("amqp" | "amqps", _)) => Err(err("RabbitMQ is not supported by this version yet")),
            Some(("redis" | "rediss", _)) => Err(err("Redis is not supported by this version yet")),
            _ => Err(err("it must be sqlite:FILE or memory:")),
        }
    }
}

/// Opens a back end. A SQLite file is made when there is none.
///
/// # Errors
/// When the file cannot be opened, or holds something else.
pub fn open(url: &BackendUrl) -> Result<Arc<dyn Backend>> {
    Ok(match url {
        BackendUrl::Memory => Memory::open()?,
        BackendUrl::Sqlite(path) => Sqlite::open(path)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_back_end_or_say_what_is_wrong_without_secrets() {
        assert_eq!("memory:".parse(), Ok(BackendUrl::Memory));
        assert_eq!("sqlite:a/b.db".parse(), Ok(BackendUrl::Sqlite("a/b.db".into())));
        assert_eq!("sqlite:///a/b.db".parse(), Ok(BackendUrl::Sqlite("/a/b.db".into())));
        for bad in ["", "a.db", "sqlite:", "memory:x", "http://x", "sqlite::memory:"] {
            assert!(bad.parse::<BackendUrl>().is_err(), "{bad}");
        }
        let e = "amqp://ana:canary@host/%2f"
            .parse::<BackendUrl>()
            .unwrap_err()
            .to_string();
        assert!(!e.contains("canary"), "{e}");
    }
}
