//! Queue and store in this process: for tests, and for jobs that need not outlive it.

use std::sync::Arc;

use crate::backend::Backend;
use crate::clock::Clock;
use crate::error::Result;
use crate::local::{Local, Shared};

/// Makes back ends that live in memory.
#[derive(Debug)]
pub struct Memory(());

impl Memory {
    /// An empty one on the machine's clock.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open() -> Result<Arc<dyn Backend>> {
        Self::with_clock(Clock::system())
    }

    /// An empty one on a clock that stands still until it is moved: a test of a day's retries
    /// takes no time.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn standing() -> Result<Arc<dyn Backend>> {
        Self::with_clock(Clock::standing())
    }

    fn with_clock(clock: Clock) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Shared(Local::in_memory(clock)?)))
    }
}
