//! Whether this process may judge others dead. One whose own beat was late, or whose store was
//! away, may have missed their beats too: it judges nobody for one lease.

use std::sync::{Mutex, MutexGuard};

use millhand_proto::limits;
use tokio::time::Instant;

use super::store::Epoch;
use crate::lock::lock;

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
        lock(&self.0)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn who_was_late_judges_nobody_for_a_lease() {
        let trust = Trust::default();
        let epoch = Epoch {
            memory: bytes::Bytes::new(),
            boot: bytes::Bytes::new(),
        };
        let beat = || trust.beat(1, epoch.clone());
        beat();
        advance(limits::BEAT * 2 - TICK).await;
        assert!(trust.may_judge(1));
        advance(TICK).await;
        assert!(!trust.may_judge(1), "two beats are missing");
        beat();
        assert!(trust.may_judge(1), "it was not late");
        advance(limits::BEAT * 2 + TICK).await;
        beat();
        for _ in 0..limits::LEASE.as_secs() {
            assert!(!trust.may_judge(1));
            advance(Duration::from_secs(1)).await;
            beat();
        }
        assert!(!trust.may_judge(1));
        advance(TICK).await;
        assert!(trust.may_judge(1));
    }
}
