//! What a job prints and says while it runs, bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
pub(crate) use millhand_proto::LogSource as Source;
use millhand_proto::{AttemptLog, LogLine, Progress, limits};

/// The log of one attempt: the newest lines, at most [`limits::LOG_BYTES`] as they are kept; and the
/// newest progress. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobLog(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// When the attempt began.
    began: Instant,
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Lines that had to go.
    dropped: u64,
    progress: Option<Progress>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            progress: None,
        }
    }
}

impl Kept {
    /// The oldest lines go when it is too much.
    fn bound(&mut self) {
        while self.bytes > limits::LOG_BYTES {
            let Some(gone) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= cost(&gone);
            self.dropped += 1;
        }
    }
}

/// What a line counts for.
fn cost(line: &LogLine) -> usize {
    line.text.len() + LogLine::OVERHEAD
}

impl JobLog {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line; what is too long of it is cut, and the oldest lines go when it is too much.
    pub(crate) fn add(&self, source: Source, mut text: String) {
        cut(&mut text);
        let mut kept = self.kept();
        let after = u64::try_from(kept.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = LogLine { after, source, text };
        kept.bytes += cost(&line);
        kept.lines.push_back(line);
        kept.bound();
    }

    /// A log of the same attempt for lines of which it is not yet known whether they belong into this one.
    pub(crate) fn aside(&self) -> Self {
        let began = self.kept().began;
        let kept = Kept {
            began,
            ..Kept::default()
        };
        Self(Arc::new(Mutex::new(kept)))
    }

    /// Moves the lines of a log [`aside`](Self::aside) in between its own, as they came.
    pub(crate) fn absorb(&self, aside: &Self) {
        let aside = std::mem::take(&mut *aside.kept());
        let mut kept = self.kept();
        kept.bytes += aside.bytes;
        kept.dropped += aside.dropped;
        kept.lines.extend(aside.lines);
        kept.lines.make_contiguous().sort_by_key(|line| line.after);
        kept.bound();
    }

    /// Notes how far the job says it is.
    pub(crate) fn set_progress(&self, progress: Progress) {
        self.kept().progress = Some(progress);
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        self.kept().progress
    }

    /// A text, with the last lines of standard error after it if there are any.
    pub(crate) fn after(&self, text: &str) -> String {
        /// Leaves room for the text within what is kept of an error.
        const SHOWN: usize = 12 << 10;
        let kept = self.kept();
        let mut last: Vec<&str> = Vec::new();
        let mut bytes = 0;
        for line in kept.lines.iter().rev().filter(|line| line.source == Source::Err) {
            bytes += line.text.len() + 1;
            if bytes > SHOWN || last.len() == 40 {
                break;
            }
            last.push(&line.text);
        }
        last.reverse();
        match last.join("\n").trim_end() {
            "" => text.to_owned(),
            last => format!("{text}; the end of standard error:\n{last}"),
        }
    }

    /// The log as it is kept beside the record; `None` when nothing was printed or said.
    pub(crate) fn take(&self, attempt: u32) -> Option<Bytes> {
        let mut kept = self.kept();
        if kept.lines.is_empty() {
            return None;
        }
        let log = AttemptLog {
            attempt,
            lines: std::mem::take(&mut kept.lines).into(),
            dropped: kept.dropped,
        };
        kept.bytes = 0;
        drop(kept);
        Some(log.encode().into())
    }
}

/// Cuts a line that is too long.
pub(crate) fn cut(text: &mut String) {
    if text.len() > limits::LOG_LINE_BYTES {
        let end = (0..=limits::LOG_LINE_BYTES - 4)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

/// What a handler says through its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A line for the log.
    Line(String),
    /// How far it is.
    Progress(Progress),
}

/// Where a context's words go.
pub(crate) enum Sink {
    /// Into the log of a run in this process.
    Here(JobLog),
    /// To the worker that this process is a child of: whatever sends a frame. It is called on the
    /// handler's threads, as often as the handler speaks: it is for whoever sends to send less.
    Worker(Box<dyn Fn(Said) + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &JobLog) -> AttemptLog {
        AttemptLog::decode(&log.take(1).expect("lines")).expect("a log")
    }

    #[test]
    fn the_newest_lines_are_kept_and_the_others_counted() {
        let log = JobLog::default();
        assert_eq!(log.take(1), None, "silence costs nothing");
        for n in 0..10_000 {
            log.add(Source::Out, format!("line {n}"));
        }
        let bytes = log.take(4).expect("lines");
        assert!(bytes.len() <= limits::LOG_BYTES + 32, "{}", bytes.len());
        let kept = AttemptLog::decode(&bytes).expect("a log");
        assert_eq!(
            (kept.attempt, kept.lines.last().unwrap().text.as_str()),
            (4, "line 9999")
        );
        assert_eq!(kept.dropped + kept.lines.len() as u64, 10_000);
        assert!(kept.lines.windows(2).all(|pair| pair[0].after <= pair[1].after));
    }

    #[test]
    fn lines_from_aside_come_in_between_and_are_bounded_with_the_others() {
        let log = JobLog::default();
        let aside = log.aside();
        let tick = || std::thread::sleep(std::time::Duration::from_millis(1));
        log.add(Source::Err, "first".to_owned());
        tick();
        aside.add(Source::Out, "second".to_owned());
        tick();
        log.add(Source::Err, "third".to_owned());
        log.absorb(&aside);
        let kept = lines(&log).lines;
        let texts: Vec<_> = kept.iter().map(|line| (line.source, line.text.as_str())).collect();
        assert_eq!(
            texts,
            [(Source::Err, "first"), (Source::Out, "second"), (Source::Err, "third")]
        );

        for n in 0..10_000 {
            log.add(Source::Err, format!("line {n}"));
            aside.add(Source::Out, format!("line {n}"));
        }
        log.absorb(&aside);
        let bytes = log.take(1).expect("lines");
        assert!(bytes.len() <= limits::LOG_BYTES + 32, "{}", bytes.len());
        let kept = AttemptLog::decode(&bytes).expect("a log");
        assert_eq!(kept.dropped + kept.lines.len() as u64, 20_000);
    }

    #[test]
    fn a_log_is_full_to_the_byte() {
        let log = JobLog::default();
        for _ in 0..limits::LOG_BYTES / 1024 {
            log.add(Source::Said, "x".repeat(1024 - LogLine::OVERHEAD));
        }
        {
            let kept = log.kept();
            assert_eq!((kept.bytes, kept.dropped), (limits::LOG_BYTES, 0));
        }
        log.add(Source::Said, String::new());
        let kept = lines(&log);
        assert_eq!((kept.lines.len(), kept.dropped), (limits::LOG_BYTES / 1024, 1));
    }

    #[test]
    fn a_line_is_cut_when_it_is_too_long() {
        let cut = |bytes| {
            let mut text = "x".repeat(bytes);
            cut(&mut text);
            text
        };
        assert_eq!(cut(limits::LOG_LINE_BYTES), "x".repeat(limits::LOG_LINE_BYTES));
        let past = cut(limits::LOG_LINE_BYTES + 1);
        assert!(past.len() <= limits::LOG_LINE_BYTES && past.ends_with("x…"), "{past}");
    }

    #[test]
    fn empty_lines_fill_it_too() {
        let log = JobLog::default();
        for _ in 0..100_000 {
            log.add(Source::Err, String::new());
        }
        assert!(lines(&log).lines.len() * LogLine::OVERHEAD <= limits::LOG_BYTES);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let log = JobLog::default();
        log.add(Source::Said, "ö".repeat(limits::LOG_LINE_BYTES));
        let text = lines(&log).lines.remove(0).text;
        assert!(
            text.len() <= limits::LOG_LINE_BYTES && text.ends_with("ö…"),
            "{}",
            text.len()
        );
    }
}
