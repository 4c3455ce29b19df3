//! For `run_until_idle`: whether anything is left to do.

use std::time::Duration;

use millhand_broker::Error;

use super::Dispatch;
use crate::worker::WorkerError;

/// How long a delivery may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

impl Dispatch {
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way + self.going_back == 0 && self.room.is_empty()
    }

    /// Whether nothing is left; moves a standing clock to the next job.
    pub(super) async fn nothing_left(&mut self) -> Result<bool, WorkerError> {
        let pending = match self.crew.backend.pending(self.said.queues.clone()).await {
            Ok(pending) => pending,
            // It comes again; then it is seen what is left.
            Err(error @ Error::Unreachable { .. }) => {
                tracing::debug!(%error, "nobody can say what is left to do");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        if pending.ready > 0 || pending.held > 0 {
            return Ok(false);
        }
        // From a server, a delivery on its way is neither ready there nor held here.
        if self.crew.backend.facts().on_the_way && self.delivered.elapsed() < ON_ITS_WAY {
            return Ok(false);
        }
        match pending.next_due {
            Some(due) => {
                self.crew.backend.advance_to(due);
                Ok(false)
            }
            None => Ok(true),
        }
    }
}
