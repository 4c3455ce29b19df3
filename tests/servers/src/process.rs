//! A server as a process: killed, stopped, frozen.

use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// A process that may be gone.
#[derive(Debug, Default)]
pub(crate) struct Process(Mutex<Option<Child>>);

impl Process {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of the one before, which is killed.
    pub(crate) fn set(&self, child: Child) {
        self.kill();
        *self.child() = Some(child);
    }

    /// Its id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        let mut child = self.child();
        let child = child.as_mut()?;
        child.try_wait().expect("wait").is_none().then(|| child.id())
    }

    /// Sends a signal; a process that is gone is left alone.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(id) = id {
            kill_process(id, signal).expect("a signal to a child");
        }
    }

    /// Ends it at once. It is gone, and its ports are free, when this returns.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&self, limit: Duration) {
        self.signal(Signal::TERM);
        let ended = until(limit, || self.ended());
        assert!(ended.is_some(), "the server did not stop within {limit:?}");
        self.kill();
    }

    /// How it ended; a process that was killed or never started has no status.
    fn ended(&self) -> Option<Option<ExitStatus>> {
        match self.child().as_mut() {
            Some(child) => child.try_wait().expect("wait").map(Some),
            None => Some(None),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
