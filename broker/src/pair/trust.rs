//! Whether this process may judge others dead. One whose own beat was late, or whose store was
//! away, may have missed their beats too: it judges nobody for one lease.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use millhand_proto::limits;

use super::store::Epoch;

#[derive(Debug, Default)]
pub(super) struct Trust(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    beat: Option<Instant>,
    doubted: Option<Instant>,
    connections: u64,
    epoch: Option<Epoch>,
}

impl Trust {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `connections` counts those that were made to the store: one that was made since the last beat
    /// says that the store was away.
    pub(super) fn may_judge(&self, connections: u64) -> bool {
        let state = self.state();
        state.connections == connections
            && state.beat.is_some_and(|last| last.elapsed() < limits::BEAT * 2)
            && state.doubted.is_none_or(|since| since.elapsed() > limits::LEASE)
    }

    /// A beat arrived. Answers whether the store has another memory than at the last beat.
    pub(super) fn beat(&self, connections: u64, epoch: Epoch) -> bool {
        let mut state = self.state();
        let late = state.beat.is_some_and(|last| last.elapsed() > limits::BEAT * 2);
        let away = state.connections != 0 && state.connections != connections;
        if late || away {
            state.doubted = Some(Instant::now());
        }
        state.beat = Some(Instant::now());
        state.connections = connections;
        let before = state.epoch.replace(epoch);
        before.is_some() && before != state.epoch
    }
}
