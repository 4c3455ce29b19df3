//! Names of tasks, queues and namespaces: what may stand on the wire, in a key, in a file name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {shown:?} {problem}")]
pub struct NameError {
    kind: &'static str,
    shown: String,
    problem: &'static str,
}

fn check(kind: &'static str, text: &str, dots: bool) -> Result<(), NameError> {
    let err = |problem| NameError {
        kind,
        shown: text.chars().take(80).collect(),
        problem,
    };
    let Some(first) = text.bytes().next() else {
        return Err(err("is empty"));
    };
    if text.len() > limits::NAME_BYTES {
        return Err(err("is longer than 64 characters"));
    }
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err(err("must start with a lower-case letter or a digit"));
    }
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-' || (dots && b == b'.');
    if !text.bytes().all(legal) {
        return Err(err(if dots {
            "may hold only a-z, 0-9, '_', '-' and '.'"
        } else {
            "may hold only a-z, 0-9, '_' and '-'"
        }));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $dots:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and keeps it.
            ///
            /// # Errors
            /// When `text` is not `[a-z0-9][a-z0-9_-]{0,63}` (task names may hold dots too).
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($kind, text, $dots)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// The name of a task on the wire: `[a-z0-9][a-z0-9_.-]{0,63}`. Renaming it is a migration.
    TaskName, "task", true
);
name!(
    /// The name of a queue: `[a-z0-9][a-z0-9_-]{0,63}`.
    QueueName, "queue", false
);
name!(
    /// The name of a namespace, which stands in every key, queue and exchange name.
    Namespace, "namespace", false
);

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("main".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_pass_and_others_say_why() {
        for good in ["a", "0", "mail-out_2", &"a".repeat(64)] {
            assert!(QueueName::new(good).is_ok(), "{good}");
        }
        assert!(TaskName::new("billing.invoice.send").is_ok());
        for (bad, why) in [
            ("", "empty"),
            ("A", "start"),
            ("_a", "start"),
            (&*"a".repeat(65), "longer"),
            ("a.b", "only"),
            ("a b", "only"),
            ("a\n", "only"),
            ("a*", "only"),
            ("é", "start"),
        ] {
            let e = QueueName::new(bad).unwrap_err().to_string();
            assert!(e.contains(why), "{bad:?}: {e}");
        }
    }
}
