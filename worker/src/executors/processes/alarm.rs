//! An alarm that is cheap to set anew.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Rings at a time or before: setting it later than it is costs nothing, and a look that comes too
/// early finds nothing to do. One alarm lasts for many jobs: a timer of tokio's that is set earlier than
/// all others wakes its thread once more, which a short job would feel.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            at: None,
        }
    }

    pub(super) fn set(&mut self, at: Instant) {
        if self.at.is_none_or(|set| at < set) {
            self.at = Some(at);
            self.sleep.as_mut().reset(at.into());
        }
    }

    pub(super) async fn rings(&mut self) {
        self.sleep.as_mut().await;
        self.at = None;
    }
}
