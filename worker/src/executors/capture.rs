//! Reads what a command writes: its lines go into a log, and its first bytes are kept where they may be the
//! result. The rest is read away: a process must never block because nobody reads, and never fill this
//! one's memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use super::lines::Lines;
use crate::log::JobLog;

pub(super) struct Capture {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Capture {
    /// Reads `stream` to its end; its lines go into the log, and its first bytes are kept.
    pub(super) fn start(
        stream: impl AsyncRead + Send + Unpin + 'static,
        most: usize,
        mut lines: Lines,
        log: JobLog,
    ) -> Self {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let all = Arc::clone(&kept);
        let reading = tokio::spawn(async move {
            let take = |piece: &[u8]| {
                let mut kept = all.lock().unwrap_or_else(PoisonError::into_inner);
                let room = most.saturating_sub(kept.len());
                kept.extend_from_slice(&piece[..piece.len().min(room)]);
                lines.add(piece, &log);
            };
            read(stream, take).await;
            lines.finish(&log);
        });
        Self { kept, reading }
    }

    /// What was kept so far, after waiting at most `patience` for the end: somebody else may hold
    /// the stream open for ever.
    pub(super) async fn bytes(&mut self, patience: Duration) -> Vec<u8> {
        if !self.reading.is_finished() {
            let _ = tokio::time::timeout(patience, &mut self.reading).await;
        }
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, mut take: impl FnMut(&[u8])) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            return;
        }
        take(&chunk[..count]);
        // A flood must not keep others waiting.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Source;

    #[tokio::test]
    async fn the_first_bytes_are_kept_and_lines_are_logged() {
        let log = JobLog::default();
        let mut capture = Capture::start(&b"a\nbcdef"[..], 4, Lines::new(Source::Err), log.clone());
        assert_eq!(capture.bytes(Duration::from_secs(10)).await, b"a\nbc");
        assert_eq!(log.after("it broke"), "it broke; the end of standard error:\na\nbcdef");
        assert_eq!(JobLog::default().after("exit code 1"), "exit code 1");
    }
}
