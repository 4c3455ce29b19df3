//! The three classes of a queue.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How urgent a job is among those of its queue. Waiting jobs share free slots 8:4:1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Class {
    /// May wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Goes before the others.
    High,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Its number on the wire: 0, 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }

    /// Its word, as on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Its share of free slots when all three classes wait.
    #[must_use]
    pub const fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 8,
        }
    }
}

impl From<Class> for u8 {
    fn from(class: Class) -> Self {
        class.number()
    }
}

impl TryFrom<u8> for Class {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|c| c.number() == number)
            .ok_or_else(|| format!("class {number} is none of 0, 1, 2"))
    }
}

impl std::str::FromStr for Class {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|c| c.as_str() == text)
            .ok_or_else(|| format!("priority {text:?} is none of low, normal, high"))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
