//! Work beside the loop that is under way at most once at a time.

use std::future::Future;

use tokio::task::JoinHandle;

/// The newest run of a duty.
#[derive(Debug, Default)]
pub(super) struct Duty(Option<JoinHandle<()>>);

impl Duty {
    /// Begins it, unless it is still under way.
    pub(super) fn begin(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if self.0.as_ref().is_none_or(JoinHandle::is_finished) {
            self.0 = Some(tokio::spawn(work));
        }
    }

    /// Ends it, however far it is.
    pub(super) async fn end(&mut self) {
        if let Some(work) = self.0.take() {
            work.abort();
            // It ended or was ended: either is well.
            let _ = work.await;
        }
    }
}
