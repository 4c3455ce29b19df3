//! Names that lists are looked up by: said again from time to time, not with every job.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millhand_proto::Timestamp;

use super::control::{YEAR, bytes_of};
use super::store::{Effect, Key};
use crate::lock::lock;

/// How often a name is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// What this process has registered, and when.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<(Key, String), Instant>>);

impl Registry {
    /// What to write so that the name is known; nothing when it was written a moment ago.
    pub(super) fn note(&self, list: Key, name: &str, now: Timestamp) -> Option<Effect> {
        let mut said = lock(&self.0);
        let place = (list.clone(), name.to_owned());
        if said.get(&place).is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        said.insert(place, Instant::now());
        let at = Bytes::copy_from_slice(&bytes_of(Some(now)));
        Some(Effect::Field(list, name.to_owned(), at, YEAR))
    }

    /// The store has forgotten.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }
}
