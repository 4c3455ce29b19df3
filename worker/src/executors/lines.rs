//! What a process writes, line by line. A process must never block because nobody reads, and never
//! fill this one's memory.

use millhand_proto::limits;

use crate::log::{JobLog, Source};

/// Puts lines together from pieces.
#[derive(Debug)]
pub(super) struct Lines {
    source: Source,
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            begun: Vec::new(),
        }
    }

    /// Adds a piece; its whole lines go into the log.
    pub(super) fn add(&mut self, piece: &[u8], log: &JobLog) {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.begin(&rest[..end]);
            self.end(log);
            rest = &rest[end + 1..];
        }
        self.begin(rest);
    }

    fn begin(&mut self, part: &[u8]) {
        // One byte more than is kept, so that the log sees that there was more.
        let room = (limits::LOG_LINE_BYTES + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end(&mut self, log: &JobLog) {
        log.add(self.source, String::from_utf8_lossy(&self.begun).into_owned());
        self.begun.clear();
    }

    /// The last line need not have an end.
    pub(super) fn finish(&mut self, log: &JobLog) {
        if !self.begun.is_empty() {
            self.end(log);
        }
    }
}
