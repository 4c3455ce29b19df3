//! What a job prints and says while it runs, bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millhand_proto::limits;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Its process's standard output.
    Out,
    /// Its process's standard error.
    Err,
    /// The handler, through its context.
    Said,
}

/// The log of one attempt: the newest lines, at most [`limits::LOG_BYTES`]. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<(Source, String)>,
    bytes: usize,
    /// Lines that had to go.
    dropped: u64,
}

impl JobLog {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line; what is too long of it is cut, and the oldest lines go when it is too much.
    pub(crate) fn add(&self, source: Source, mut line: String) {
        if line.len() > limits::LOG_LINE_BYTES {
            let end = (0..=limits::LOG_LINE_BYTES - 4)
                .rev()
                .find(|at| line.is_char_boundary(*at));
            line.truncate(end.unwrap_or(0));
            line.push('…');
        }
        let mut lines = self.lines();
        lines.bytes += line.len() + 1;
        lines.lines.push_back((source, line));
        while lines.bytes > limits::LOG_BYTES {
            let Some((_, gone)) = lines.lines.pop_front() else {
                break;
            };
            lines.bytes -= gone.len() + 1;
            lines.dropped += 1;
        }
    }

    /// A text, with the last lines of standard error after it if there are any.
    pub(crate) fn after(&self, text: &str) -> String {
        /// Leaves room for the text within what is kept of an error.
        const SHOWN: usize = 12 << 10;
        let lines = self.lines();
        let mut last: Vec<&str> = Vec::new();
        let mut bytes = 0;
        for (source, line) in lines.lines.iter().rev() {
            if *source == Source::Err {
                bytes += line.len() + 1;
                if bytes > SHOWN || last.len() == 40 {
                    break;
                }
                last.push(line);
            }
        }
        last.reverse();
        match last.join("\n").trim_end() {
            "" => text.to_owned(),
            last => format!("{text}; the end of standard error:\n{last}"),
        }
    }
}
