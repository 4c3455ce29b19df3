//! Keeps a bounded part of what a process writes, and reads the rest away: a process must never
//! block because nobody reads, and never fill this one's memory.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// Bytes of standard error that are kept for the cause of a crash.
pub(super) const STDERR_KEPT: usize = 16 << 10;

/// Which bytes are kept.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    First(usize),
    Last(usize),
}

pub(super) struct Capture {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Capture {
    /// Reads `stream` to its end; `pass_on` writes what comes to this process's standard error too.
    pub(super) fn start(stream: impl AsyncRead + Send + Unpin + 'static, keep: Keep, pass_on: bool) -> Self {
        let kept = Arc::default();
        let reading = tokio::spawn(read(stream, keep, pass_on, Arc::clone(&kept)));
        Self { kept, reading }
    }

    /// Forgets what was kept: a new job begins.
    pub(super) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

async fn read(mut stream: impl AsyncRead + Unpin, keep: Keep, pass_on: bool, kept: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            return;
        }
        add(
            &mut kept.lock().unwrap_or_else(PoisonError::into_inner),
            &chunk[..count],
            keep,
        );
        if pass_on {
            // Off this thread: whoever reads this process's standard error may be slow.
            let text = chunk[..count].to_vec();
            let _ = tokio::task::spawn_blocking(move || std::io::stderr().write_all(&text)).await;
        }
    }
}

fn add(kept: &mut Vec<u8>, new: &[u8], keep: Keep) {
    match keep {
        Keep::First(limit) => {
            let room = limit.saturating_sub(kept.len());
            kept.extend_from_slice(&new[..new.len().min(room)]);
        }
        Keep::Last(limit) => {
            kept.extend_from_slice(new);
            let excess = kept.len().saturating_sub(limit);
            kept.drain(..excess);
        }
    }
}

/// The words for a process's end, with the last lines of its standard error if there are any.
pub(super) fn with_stderr(cause: &str, stderr: &[u8]) -> String {
    /// Leaves room for the cause within the text that is kept of an error.
    const SHOWN: usize = 12 << 10;
    let tail = &stderr[stderr.len().saturating_sub(SHOWN)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<_> = text.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(40)..].join("\n");
    if last.is_empty() {
        cause.to_owned()
    } else {
        format!("{cause}; the end of standard error:\n{last}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_or_the_last_bytes_are_kept() {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for part in ["abc", "def", "g"] {
            add(&mut first, part.as_bytes(), Keep::First(4));
            add(&mut last, part.as_bytes(), Keep::Last(4));
        }
        assert_eq!(first, b"abcd");
        assert_eq!(last, b"defg");
    }

    #[test]
    fn a_cause_carries_what_was_said_last() {
        assert_eq!(with_stderr("exit code 1", b"\n"), "exit code 1");
        assert_eq!(
            with_stderr("exit code 1", b"a\nb\n"),
            "exit code 1; the end of standard error:\na\nb"
        );
    }
}
