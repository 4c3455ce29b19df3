//! A runtime and thread of its own for connections, so that neither task code nor the end of a
//! caller's runtime can stall them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// The thread that drives connections; it ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    handle: Handle,
    _end: Arc<oneshot::Sender<()>>,
}

impl Io {
    pub(crate) fn start(name: &str) -> Result<Self> {
        let failed = |e| Error::unreachable("a thread", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _ = runtime.block_on(ended);
            })
            .map_err(failed)?;
        let _end = Arc::new(end);
        Ok(Self { handle, _end })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` there; it goes on when the caller gives up.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.handle.spawn(work).await.map_err(|_| Error::Closed)
    }
}

/// A random number.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// Between half of `span` and all of it.
pub(crate) fn jitter(span: std::time::Duration) -> std::time::Duration {
    let half = span / 2;
    half + half.mul_f64(f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}
