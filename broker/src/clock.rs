//! Where the time comes from: the machine, or a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use millhand_proto::Timestamp;

/// A clock. A virtual one stands still until it is moved, so that a test of a day's retries takes
/// no time.
#[derive(Clone, Debug)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that starts now and moves only by [`advance_to`](Self::advance_to).
    #[must_use]
    pub fn standing() -> Self {
        Self(Some(Arc::new(AtomicI64::new(Self::system().now().as_micros()))))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(micros) => Timestamp::from_micros(micros.load(Ordering::SeqCst)),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
        }
    }

    /// Moves a virtual clock forward; answers whether this is one.
    pub fn advance_to(&self, time: Timestamp) -> bool {
        self.0.as_ref().is_some_and(|micros| {
            micros.fetch_max(time.as_micros(), Ordering::SeqCst);
            true
        })
    }
}
